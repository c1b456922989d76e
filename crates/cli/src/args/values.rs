//! How values of arguments are read.

use std::net::Ipv6Addr;
use std::time::Duration;

use streamlease::{EntryId, Error, Info, ServiceName, StreamName};

use super::work::Failures;
use super::{Hold, InfoSource};

pub(super) fn service(text: &str) -> Result<ServiceName, String> {
    ServiceName::new(text).map_err(|err| err.to_string())
}

pub(super) fn stream(text: &str) -> Result<StreamName, String> {
    StreamName::new(text).map_err(|err| err.to_string())
}

pub(super) fn entry(text: &str) -> Result<EntryId, String> {
    text.parse().map_err(|err: Error| err.to_string())
}

pub(super) fn info(text: &str) -> Result<InfoSource, String> {
    match (text, text.strip_prefix('@')) {
        ("-", _) => Ok(InfoSource::StandardInput),
        (_, Some("")) => Err("there is no file name behind the @".to_owned()),
        (_, Some(file)) => Ok(InfoSource::File(file.into())),
        (json, None) => Info::from_json(json)
            .map(InfoSource::Json)
            .map_err(|err| err.to_string()),
    }
}

pub(super) fn hold(text: &str) -> Result<Hold, String> {
    match text {
        "forever" => Ok(Hold::Forever),
        _ => duration(text)
            .map(Hold::For)
            .map_err(|err| err + ", or forever"),
    }
}

pub(super) fn failures(text: &str) -> Result<Failures, String> {
    match text {
        "never" => Ok(Failures(None)),
        _ => match text.parse() {
            Ok(failures @ 1..) => Ok(Failures(Some(failures))),
            _ => Err("give at least 1, or never".to_owned()),
        },
    }
}

/// A host and a port; whether there is such a host shows when it is listened at.
pub(super) fn address(text: &str) -> Result<String, String> {
    let is_host = |host: &str| {
        let is_ipv6 = || {
            let inner = host.strip_prefix('[')?.strip_suffix(']')?;
            inner.parse::<Ipv6Addr>().ok()
        };
        let is_in_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        !host.is_empty() && host.chars().all(is_in_name) || is_ipv6().is_some()
    };
    match text.rsplit_once(':') {
        Some((host, port)) if is_host(host) && port.parse::<u16>().is_ok() => Ok(text.to_owned()),
        _ => Err(
            "give a host and a port, such as 127.0.0.1:8080, or 0.0.0.0:8080 for \
                  requests from everywhere"
                .to_owned(),
        ),
    }
}

/// A number with a unit: `500ms`, `2s`, `1.5m`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let parse = || {
        let unit_at = text.find(|c: char| c.is_ascii_alphabetic())?;
        let (number, unit) = text.split_at(unit_at);
        let unit = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let digits_only = number.chars().all(|c| c.is_ascii_digit() || c == '.');
        let number: f64 = number.parse().ok().filter(|_| digits_only)?;
        // Whole milliseconds: what is smaller means nothing to any setting.
        let ms = (number * unit * 1000.0).round();
        Duration::try_from_secs_f64(ms / 1000.0)
            .ok()
            .filter(|d| d.as_secs() <= MAX_SECS)
    };
    parse().ok_or_else(|| "give a number and a unit, like 500ms, 2s, 5m or 1h".to_owned())
}

/// A duration within which a batch may be sent again and again.
pub(super) fn submit_timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration(text)?;
    match timeout <= Duration::from_secs(300) {
        true => Ok(timeout),
        false => Err("give at most 5m: later the server may not remember what it has".to_owned()),
    }
}

/// A hundred years; more than that overflows clocks.
const MAX_SECS: u64 = 100 * 365 * 24 * 3600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for good in [
            "127.0.0.1:8080",
            "localhost:0",
            "[::1]:8080",
            "pod-1.calls:80",
        ] {
            assert_eq!(address(good), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "8080",
            ":8080",
            "localhost",
            "localhost:",
            "localhost:70000",
            "::1:8080",
            "[x]:8080",
            "http://localhost:8080",
            "a b:80",
        ] {
            let said = address(bad).unwrap_err();
            assert!(said.contains("127.0.0.1:8080"), "{bad:?}: {said}");
        }
    }

    #[test]
    fn durations_have_a_number_and_a_unit() {
        for (text, ms) in [
            ("500ms", 500),
            ("2s", 2_000),
            ("1.5m", 90_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in [
            "",
            "2",
            "s",
            "-1s",
            "+1s",
            "2 s",
            "2d",
            "1e3s",
            "nans",
            "infs",
            "2sec",
            "99999999h",
            "1.2.3s",
        ] {
            assert!(duration(bad).is_err(), "{bad:?} parsed");
        }
        assert_eq!(hold("forever"), Ok(Hold::Forever));
        assert!(hold("never").unwrap_err().contains("forever"));
    }
}
