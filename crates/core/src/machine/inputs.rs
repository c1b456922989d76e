//! What hints tell and users ask for, passed on to the parts that it concerns.

use super::calls::Flight;
use super::{Answer, CallId, Command, Completion, Machine};
use crate::Hint;

impl Machine {
    pub(super) fn hint(&mut self, hint: Hint) {
        match hint {
            Hint::LockExpired { entry, .. } => {
                self.recovery
                    .rescan_expired(&mut self.cx, &self.leases, entry)
            }
            Hint::HandedBack(entries) => {
                self.leases.reconsider(&entries);
                self.recovery.rescan(entries);
            }
            Hint::Freed(streams) => {
                for stream in &streams {
                    self.leases.wake_stream(&mut self.cx, stream);
                    self.recovery.freed(stream);
                }
            }
            Hint::HolderGone(consumer) => self.recovery.suspect(&mut self.cx, consumer, None),
            Hint::PauseChanged => self.pauses.ask(&self.cx),
            Hint::MayHaveMissed => {
                // One that begins is learnt of by the first claim.
                if self.cx.is_paused {
                    self.pauses.ask(&self.cx);
                }
                // Hints come again: so may everything else.
                self.outages.retry_soon(&mut self.cx);
                self.recovery.rescan_after_silence(&mut self.cx);
            }
        }
    }

    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Complete { entry, token, call } => {
                self.leases.complete(&mut self.cx, entry, token, call)
            }
            Command::CompleteStream { stream, call } => {
                let lease = self.leases.items.active_entry(&stream).and_then(|entry| {
                    Some((entry, self.leases.items.get(entry)?.state.lock()?.token))
                });
                match lease {
                    Some((entry, token)) => self.leases.complete(&mut self.cx, entry, token, call),
                    None => self
                        .cx
                        .answer(call, Ok(Answer::Completion(Completion::NotOwner))),
                }
            }
            Command::HandBack {
                entry,
                token,
                failed,
                call,
            } => {
                self.leases
                    .hand_back(&mut self.cx, entry, token, failed, call);
            }
            Command::Claim {
                entry,
                stream,
                info,
                call,
            } => {
                self.leases
                    .claim_orphan(&mut self.cx, entry, stream, info, call);
            }
            Command::SetProgressTimeout {
                entry,
                token,
                limit,
            } => self
                .leases
                .set_progress_timeout(&mut self.cx, entry, token, limit),
            Command::SetCapacity(capacity) => {
                self.leases.late.allow(self.cx.settings.capacity);
                self.cx.settings.capacity = capacity;
            }
            Command::Shutdown { call } => self.shut_down(call),
        }
    }

    fn shut_down(&mut self, call: Option<CallId>) {
        if self.drain.begin(&mut self.cx, call) {
            self.cx
                .cancel(|flight| matches!(flight, Flight::Fetch { .. }));
            self.leases.hand_back_all(&mut self.cx);
        }
    }
}
