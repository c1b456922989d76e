//! `streamlease revoke`: asks owners to hand streams back.

use serde::Serialize;
use streamlease::LeaseAdmin;
use streamlease::spi::counted;

use crate::Failure;
use crate::args::{RevokeArgs, RuntimeKind};
use crate::output::{Told, json_line, printable};
use crate::runtime;

/// Streams asked for together.
const PAGE: usize = 500;

pub(crate) fn run(args: RevokeArgs) -> Result<(), Failure> {
    runtime::block_on(RuntimeKind::Tokio, |_| async move {
        let backend = crate::connect_to_service(&args.target).await?;
        let service = args.target.service.as_str();
        let admin = LeaseAdmin::new(service, &backend)?;
        let (mut missed, mut told) = (0, Told::default());
        for page in args.names.chunks(PAGE) {
            let asked = admin.revoke(page).await?;
            let lines = page.iter().zip(&asked);
            let lines = lines.map(|(stream, asked)| Line::new(stream.to_string(), *asked));
            let text: String = lines
                .map(|line| match args.json {
                    true => json_line(&line),
                    false => line.readable() + "\n",
                })
                .collect();
            // Whether it can be told or not, all of them are asked.
            told.print(&text);
            missed += asked.iter().filter(|asked| !**asked).count();
        }
        told.finish()?;
        match missed {
            0 => Ok(()),
            _ => Err(Failure::other(format!(
                "nobody holds {missed} of {}",
                counted(args.names.len(), "stream", "streams")
            ))),
        }
    })
}

/// What is printed of one stream.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Revoked { stream: String },
    NotHeld { stream: String },
}

impl Line {
    fn new(stream: String, asked: bool) -> Self {
        match asked {
            true => Self::Revoked { stream },
            false => Self::NotHeld { stream },
        }
    }

    /// The same for people.
    fn readable(&self) -> String {
        match self {
            Self::Revoked { stream } => format!("revoked: stream={}", printable(stream)),
            Self::NotHeld { stream } => format!("not held: stream={}", printable(stream)),
        }
    }
}
