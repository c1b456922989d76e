//! The service: who lives, and what waits for whom.

use std::collections::BTreeSet;

use super::{Finding, PAGE, Severity};
use crate::{
    Backend, EntryId, ErrorKind, LockId, LockScheme, LockState, Pause, Pending, Result, Scope,
};

/// Entries that are looked at, and names that are shown.
const PAGE_OF_IDS: usize = 1_000;
const PAGE_OF_ENTRIES: usize = 200;
const NAMES: usize = 10;

pub(super) async fn look(backend: &Backend) -> Result<Vec<Finding>> {
    let waiting = waiting(backend).await?;
    let pause = backend.transport.paused().await?;
    let mut findings = vec![
        locks(backend.locks.scheme()),
        members(backend, &waiting, pause.is_some()).await?,
        paused(pause),
    ];
    if !waiting.has_group {
        let message = "there is no group: nobody has consumed for this service yet";
        findings.push(finding(Severity::Info, "unused", message));
        return Ok(findings);
    }
    findings.push(unowned(&waiting));
    findings.push(stranded(backend).await?);
    findings.push(quarantine(backend).await?);
    Ok(findings)
}

fn finding(severity: Severity, code: &'static str, message: impl Into<String>) -> Finding {
    Finding::new(severity, code, message).explained_on(PAGE)
}

/// What there is without a group: nothing, which is no error.
fn or_none<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotPrepared => Ok(None),
        other => other.map(Some),
    }
}

fn locks(scheme: LockScheme) -> Finding {
    let message = match scheme {
        LockScheme::Session => "session leases",
        LockScheme::PerStream => "a lock per stream",
    };
    finding(Severity::Info, "locks", message)
}

/// Entries that nobody has completed.
struct Waiting {
    has_group: bool,
    undelivered: bool,
    pending: bool,
    /// Those of the first page whose lock nobody has.
    unowned: usize,
    /// Whether there are more pages.
    has_more: bool,
}

async fn waiting(backend: &Backend) -> Result<Waiting> {
    let undelivered = backend.admin.list_undelivered(EntryId::MIN, 1).await;
    let undelivered = or_none(undelivered)?.is_some_and(|entries| !entries.is_empty());
    let scope = Scope::All {
        after: EntryId::MIN,
    };
    let page = backend.transport.list_pending(&scope, PAGE_OF_ENTRIES);
    let page = or_none(page.await)?;
    let has_group = page.is_some();
    let page = page.unwrap_or_default();
    let lock = |pending: &Pending| {
        Some(LockId {
            stream: pending.content.as_ref().ok()?.stream.clone(),
            entry: pending.entry,
        })
    };
    let locks: Vec<_> = page.entries.iter().filter_map(lock).collect();
    let states = backend.locks.inspect(&locks).await?;
    let is_held = |state: &&LockState| matches!(state, LockState::Held(_));
    let held = states.iter().filter(is_held).count();
    Ok(Waiting {
        has_group,
        undelivered,
        pending: !page.entries.is_empty(),
        unowned: page.entries.len() - held,
        has_more: page.next.is_some(),
    })
}

async fn members(backend: &Backend, waiting: &Waiting, is_paused: bool) -> Result<Finding> {
    let (names, what): (Vec<String>, _) = match backend.locks.sessions() {
        Some(sessions) => {
            let members = sessions.members().await?.into_iter();
            let names = members.map(|member| member.session.consumer.to_string());
            (names.collect(), "live consumers")
        }
        // Whether they live only their locks tell.
        None => {
            let consumers = or_none(backend.admin.consumers().await)?.unwrap_or_default();
            let names = consumers
                .into_iter()
                .map(|state| state.consumer.to_string());
            (names.collect(), "consumers in the group")
        }
    };
    if !names.is_empty() {
        let mut shown = names[..names.len().min(NAMES)].join(", ");
        if names.len() > NAMES {
            shown += ", …";
        }
        let mut message = format!("{what}: {} ({shown})", names.len());
        let mut seen = BTreeSet::new();
        let Some(shared) = names.iter().find(|name| !seen.insert(*name)) else {
            return Ok(finding(Severity::Info, "members", message));
        };
        let sharing = names.iter().filter(|name| *name == shared).count();
        message += &format!("; {sharing} of them are called {shared}");
        return Ok(finding(Severity::Warning, "members", message).advise(
            "Give each process a name of its own. If one was killed and started again, it has been \
             alone within a TTL",
        ));
    }
    Ok(match waiting.undelivered || waiting.pending {
        true => finding(
            Severity::Warning,
            "members",
            "no consumer lives, and entries wait",
        )
        .advise(match is_paused {
            false => "Start a consumer, for example with `streamlease work`",
            true => "The service is paused: a consumer that starts takes nothing before `resume`",
        }),
        false => finding(Severity::Info, "members", "no consumer lives"),
    })
}

fn paused(pause: Option<Pause>) -> Finding {
    let Some(pause) = pause else {
        return finding(Severity::Ok, "paused", "the service is not paused");
    };
    let mut message = "the service is paused: nobody takes a stream until it is resumed".to_owned();
    if !pause.reason.is_empty() {
        message += &format!(" ({})", pause.reason);
    }
    finding(Severity::Warning, "paused", message)
        .advise("Once its reason is gone, let it go on with `streamlease resume`")
}

fn unowned(waiting: &Waiting) -> Finding {
    let message = match (waiting.unowned, waiting.has_more) {
        (0, false) => "every pending entry has an owner".to_owned(),
        (count, false) => format!("pending entries without an owner: {count}"),
        (count, true) => {
            format!("pending entries without an owner: {count} of the first {PAGE_OF_ENTRIES}")
        }
    };
    if waiting.unowned == 0 {
        return finding(Severity::Ok, "unowned", message);
    }
    finding(Severity::Info, "unowned", message).advise(
        "Consumers with room take them. If the number stays for longer than a few TTLs, add \
         consumers or raise their capacity",
    )
}

async fn stranded(backend: &Backend) -> Result<Finding> {
    let page = backend.transport.list_stranded(EntryId::MIN, PAGE_OF_IDS);
    let page = page.await?;
    if page.entries.is_empty() {
        let message = "no delivered entry is at nobody";
        return Ok(finding(Severity::Ok, "stranded", message));
    }
    let least = if page.next.is_some() { "at least " } else { "" };
    let message = format!(
        "delivered entries that are pending at nobody: {least}{}",
        page.entries.len()
    );
    Ok(finding(Severity::Warning, "stranded", message).advise(
        "Somebody changed the group, or a consumer of another library was stopped between two \
         steps. Consumers take them in their sweeps; see that one runs",
    ))
}

async fn quarantine(backend: &Backend) -> Result<Finding> {
    let page = backend.admin.list_quarantined(EntryId::MIN, 1).await?;
    let Some(first) = page.first() else {
        return Ok(finding(
            Severity::Ok,
            "quarantine",
            "nothing is in quarantine",
        ));
    };
    let message = format!("entries are in quarantine; the first: {}", first.reason);
    Ok(finding(Severity::Warning, "quarantine", message)
        .advise("See their reasons with `streamlease quarantine list`"))
}
