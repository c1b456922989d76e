//! `streamlease pause` and `streamlease resume`.

use serde::Serialize;
use streamlease::{BackendProvider, ErrorKind, LockScheme, ServiceAdmin};

use crate::Failure;
use crate::args::{PauseArgs, ResumeArgs, RuntimeKind, Target};
use crate::output::{json_line, note, print, printable};
use crate::runtime;

pub(crate) fn pause(args: PauseArgs) -> Result<(), Failure> {
    runtime::block_on(RuntimeKind::Tokio, |_| async move {
        let backend = crate::connect_to_service(&args.target).await?;
        let service = &args.target.service;
        let admin = ServiceAdmin::new(service, &backend)?;
        let began = admin.pause(&args.reason).await?;
        // Of one that lasts already: that one's.
        let reason = match admin.paused().await {
            Ok(Some(pause)) => pause.reason,
            Ok(None) | Err(_) => args.reason,
        };
        let event = match began {
            true => Event::Paused,
            false => Event::AlreadyPaused,
        };
        tell(&args.target, args.json, event, Some(reason))?;
        if backend.backend(service)?.locks.scheme() == LockScheme::PerStream {
            note(
                "warning: a fleet with per-stream locks may have consumers of the Go library: they \
                 do not know of pauses, and go on taking",
            );
        }
        Ok(())
    })
}

pub(crate) fn resume(args: ResumeArgs) -> Result<(), Failure> {
    runtime::block_on(RuntimeKind::Tokio, |_| async move {
        let backend = crate::connect_to_service(&args.target).await?;
        let admin = ServiceAdmin::new(&args.target.service, &backend)?;
        // A key of another type there pauses the service as well.
        let was_foreign = match admin.paused().await {
            Err(err) if err.kind() == ErrorKind::Incompatible => Some(err),
            // Who may resume need not have the rights to look.
            _ => None,
        };
        let event = match admin.resume().await? {
            true => Event::Resumed,
            false => Event::NotPaused,
        };
        tell(&args.target, args.json, event, None)?;
        if let Some(err) = was_foreign {
            note(&format!("what was removed there was no pause: {err}"));
        }
        Ok(())
    })
}

fn tell(target: &Target, json: bool, event: Event, reason: Option<String>) -> Result<(), Failure> {
    let service = target.service.as_str();
    let line = Line {
        event,
        service,
        reason,
    };
    print(&match json {
        true => json_line(&line),
        false => line.readable() + "\n",
    })?;
    Ok(())
}

/// What is printed.
#[derive(Serialize)]
struct Line<'a> {
    event: Event,
    service: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Event {
    Paused,
    AlreadyPaused,
    Resumed,
    NotPaused,
}

impl Line<'_> {
    /// The same for people.
    fn readable(&self) -> String {
        let what = match self.event {
            Event::Paused => "paused",
            Event::AlreadyPaused => "paused already",
            Event::Resumed => "resumed",
            Event::NotPaused => "not paused",
        };
        let service = printable(self.service);
        match self.reason.as_deref() {
            None | Some("") => format!("{what}: service={service}"),
            Some(reason) => format!("{what}: service={service} ({})", printable(reason)),
        }
    }
}
