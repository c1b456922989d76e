//! [`Operation`]: the name of a backend's method.

use std::fmt;

macro_rules! operations {
    ($($variant:ident = $name:literal;)+) => {
        /// A method of one of the traits of a [`Backend`](crate::Backend), as logs,
        /// metrics and [decorators](crate::decorate) name it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs, reason = "each is the trait method of the same name")]
        #[non_exhaustive]
        pub enum Operation {
            $($variant,)+
        }

        impl Operation {
            /// The method's name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

operations! {
    // `Transport`
    Prepare = "prepare";
    Fetch = "fetch";
    ListPending = "list_pending";
    ListPendingIds = "list_pending_ids";
    ListStranded = "list_stranded";
    Claim = "claim";
    ClearFailures = "clear_failures";
    Complete = "complete";
    HandBack = "hand_back";
    Quarantine = "quarantine";
    RemoveConsumer = "remove_consumer";
    // `Submitter`
    Submit = "submit";
    // `Admin`
    Consumers = "consumers";
    ListUndelivered = "list_undelivered";
    ListQuarantined = "list_quarantined";
    ReleaseQuarantined = "release_quarantined";
    DropQuarantined = "drop_quarantined";
    // `LockManager`
    Acquire = "acquire";
    Renew = "renew";
    Release = "release";
    Inspect = "inspect";
    // `Sessions`
    Open = "open";
    Close = "close";
    TakeOver = "take_over";
    RemoveSession = "remove";
    Members = "members";
    Records = "records";
    Revoke = "revoke";
    // `Notifier`
    Subscribe = "subscribe";
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
