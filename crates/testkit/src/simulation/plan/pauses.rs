//! Pauses of the service, drawn after all other faults, again from numbers of their own.

use std::time::Duration;

use super::super::fault::Fault;
use super::super::rng::Rng;
use super::Plan;

impl Plan {
    pub(super) fn draw_pauses(&mut self, fits: impl Fn(&Fault) -> bool) {
        let mut rng = Rng::new(self.seed ^ 0x9a05_9a05_9a05_9a05);
        // In half of the seeds there are some; they may overlap.
        for _ in 0..rng.below(4).saturating_sub(1) {
            let at = rng.between(Duration::ZERO, self.trouble);
            let most = [self.ttl / 4, self.ttl * 4][rng.below(2) as usize];
            let length = rng.between(Duration::from_millis(1), most);
            let fault = Fault::ServicePaused { length };
            if fits(&fault) {
                self.faults.push((at, fault));
            }
        }
    }
}
