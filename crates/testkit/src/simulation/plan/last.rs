//! Faults that are drawn after those of `later`, again from numbers of their own: links
//! that are thin, servers that add nothing, and TTLs that are long.

use std::time::Duration;

use super::super::fault::{Fault, Of, Refused};
use super::super::rng::Rng;
use super::Plan;

/// The TTLs of some consumers, in seconds: beyond the longest stillness after a restart.
const LONG_TTLS: [u64; 4] = [15, 20, 30, 60];

impl Plan {
    pub(super) fn draw_last(&mut self, fits: impl Fn(&Fault) -> bool) {
        let mut rng = Rng::new(self.seed ^ 0x1a57_1a57_1a57_1a57);
        for _ in 0..rng.below(4) {
            let at = rng.between(Duration::ZERO, self.trouble);
            let fault = self.draw_one_of_the_last(&mut rng);
            if fits(&fault) {
                self.faults.push((at, fault));
            }
        }
        let each = self.draw_each(&mut rng);
        self.thin = (rng.below(3) == 0).then_some(each);
        // Among consumers with short TTLs the run would take too many steps.
        let long = match self.ttl.as_secs() {
            0 | 1 => None,
            2..=4 => LONG_TTLS
                .get(rng.below(8) as usize)
                .filter(|ttl| **ttl < 30),
            _ => LONG_TTLS.get(rng.below(10) as usize),
        };
        self.long_ttl = long.map(|ttl| Duration::from_secs(*ttl));
    }

    fn draw_one_of_the_last(&self, rng: &mut Rng) -> Fault {
        let node = rng.below(1 << 20);
        let each = self.draw_each(rng);
        let length = rng.between(self.ttl / 10, self.ttl * 3);
        let of = [Of::Lbs, Of::Locks, Of::Both][rng.below(3) as usize];
        let what = match rng.below(4) {
            0 | 1 => {
                return Fault::ThinLink {
                    node,
                    each,
                    length: length * 2,
                };
            }
            2 => Refused::Additions,
            _ => Refused::Everything,
        };
        Fault::Refuses { of, what, length }
    }

    /// How long one entry takes: a listing of one is not given up on any link.
    fn draw_each(&self, rng: &mut Rng) -> Duration {
        let most = self.ttl.max(Duration::from_secs(2)) / 4;
        let most = [most / 50, most][rng.below(2) as usize];
        rng.between(Duration::from_millis(1), most)
    }
}
