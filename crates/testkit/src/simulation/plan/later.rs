//! Faults that are drawn after all others, from numbers of their own, so that the rest
//! of a seed's plan is what it was without: what a server says, refuses and forgets.

use std::time::Duration;

use streamlease_core::LockScheme;

use super::super::fault::{Estimate, Fault, Key, Of, Refused};
use super::super::rng::Rng;
use super::Plan;

impl Plan {
    pub(super) fn draw_later(&mut self, fits: impl Fn(&Fault) -> bool) {
        let mut rng = Rng::new(self.seed ^ 0x1a7e_1a7e_1a7e_1a7e);
        for _ in 0..rng.below(6) {
            let at = rng.between(Duration::ZERO, self.trouble);
            let fault = draw(&mut rng, self.scheme, self.ttl, self.harsh);
            if fits(&fault) {
                self.faults.push((at, fault));
            }
        }
    }
}

fn draw(rng: &mut Rng, scheme: LockScheme, ttl: Duration, harsh: bool) -> Fault {
    let node = rng.below(1 << 20);
    let nth = rng.below(64);
    let length = rng.between(ttl / 10, ttl * 3);
    let of = [Of::Lbs, Of::Locks, Of::Both][rng.below(3) as usize];
    let kinds = if harsh { 12 } else { 9 };
    match rng.below(kinds) {
        0 => Fault::BacklogLies(match rng.below(4) {
            0 | 1 => Estimate::TooMany(1 + rng.below(2_000)),
            2 => Estimate::TooFew,
            _ => Estimate::None,
        }),
        1 => Fault::FetchesComeBack {
            permille: [0, 0, 5, 100][rng.below(4) as usize],
        },
        2 => Fault::Refuses {
            of: Of::Lbs,
            what: Refused::Announcements,
            length: length * 2,
        },
        3 => Fault::Refuses {
            of,
            what: Refused::Writes,
            length,
        },
        4 => Fault::Refuses {
            of,
            what: Refused::Everything,
            length,
        },
        5 => match rng.below(2) {
            0 => Fault::Demoted { node, length },
            _ => Fault::SlowConnect { node, length },
        },
        6 => Fault::KeyGone {
            key: [Key::Turn, Key::Refused, Key::Buried, Key::Marks][rng.below(4) as usize],
            nth,
        },
        7..=8 => match rng.below(3) {
            0 => Fault::ConsumerRemoved { nth },
            1 => Fault::Acknowledged { nth },
            _ => Fault::GroupAtTheEnd,
        },
        _ => Fault::KeyGone {
            key: draw_key(rng, scheme),
            nth,
        },
    }
}

/// Those on which leases hang.
fn draw_key(rng: &mut Rng, scheme: LockScheme) -> Key {
    let keys = match scheme {
        LockScheme::Session => [
            Key::Sessions,
            Key::Session,
            Key::Owners,
            Key::Leases,
            Key::Counter,
            Key::Tokens,
            Key::Token,
        ],
        LockScheme::PerStream => [
            Key::Sessions,
            Key::Session,
            Key::StreamLock,
            Key::WireLock,
            Key::Counter,
            Key::Tokens,
            Key::Token,
        ],
    };
    keys[rng.below(7) as usize]
}
