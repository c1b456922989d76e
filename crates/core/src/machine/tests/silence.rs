//! Handlers that make no progress.

use std::sync::Arc;
use std::time::Duration;

use super::rig::{Rig, SCHEMES, TTL, entry};
use crate::belief::Belief;
use crate::machine::{Command, Input, Notice};

fn belief(rig: &Rig, n: u64) -> Arc<Belief> {
    let belief = rig.notices.iter().rev().find_map(|notice| match notice {
        Notice::Added {
            entry: e, belief, ..
        } if *e == entry(n) => Some(belief.clone()),
        _ => None,
    });
    belief.unwrap()
}

/// Simulated seeds 378 and 472: with per-stream locks the beat extended the
/// belief in a lease whose `lost()` had fired, while its hand back was under way.
#[test]
fn a_silent_lease_is_not_revived_by_the_next_beat() {
    for scheme in SCHEMES {
        let mut rig = Rig::with(scheme, |settings| settings.max_silence = Some(TTL / 2));
        rig.leased(1, "s");
        rig.pass_with(TTL / 2, |rig| {
            if rig.has("Beat") {
                rig.beat_with(|_| {});
            }
        });
        assert!(rig.has("HandBack"), "{scheme:?}: not given up");
        assert!(
            belief(&rig, 1).is_over(),
            "{scheme:?}: lost() has not fired"
        );
        rig.beat_with(|_| {});
        assert!(belief(&rig, 1).is_over(), "{scheme:?}: believed again");
    }
}

/// It was counted from when the limit was set.
#[test]
fn a_limit_of_silence_counts_from_the_last_progress() {
    for scheme in SCHEMES {
        let mut rig = Rig::new(scheme);
        let token = rig.leased(1, "s");
        let beating = |rig: &mut Rig| {
            if rig.has("Beat") {
                rig.beat_with(|_| {});
            }
        };
        rig.pass_with(TTL / 2, beating);
        rig.input(Input::Command(Command::LimitSilence {
            entry: entry(1),
            token,
            limit: Some(TTL * 3 / 4),
        }));
        rig.pass_with(TTL / 4 - Duration::from_millis(1), beating);
        assert!(!rig.has("HandBack"), "{scheme:?}: too early");
        rig.pass_with(Duration::from_millis(1), beating);
        assert!(rig.has("HandBack"), "{scheme:?}: too late");
    }
}
