//! Real clients, with your handlers, on the model of the servers.

mod ledger;
mod line;
mod servers;
mod trial;

pub use ledger::Ledger;
pub use line::Line;
pub use servers::{HintsAre, SimServers};
pub use trial::{Outcome, Process, Trial};
