//! What `--exec` runs for each stream: this test's own executable, with other arguments.
//!
//! It writes the stream's parts to the ledger, each with its token, going on
//! where the last owner stopped. It does not care whether its worker lives.

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// A later owner has been at the ledger.
const REFUSED: u8 = 7;
/// The ledger is gone: the test has ended.
const NO_LEDGER: u8 = 8;

/// In front of what goes wrong with the test itself.
pub(crate) const COMPLAINT: &str = "the program cannot go on: ";

pub(crate) fn run(ledger: &str) -> ExitCode {
    match work(ledger) {
        Ok(code) => ExitCode::from(code),
        Err(err) => {
            // Its worker logs it.
            let _ = writeln!(io::stderr(), "{COMPLAINT}{err}");
            ExitCode::from(NO_LEDGER)
        }
    }
}

fn work(ledger: &str) -> io::Result<u8> {
    let variable = |name: &str| std::env::var(name).map_err(io::Error::other);
    let lease = format!(
        "{} {} {}",
        variable("STREAMLEASE_STREAM")?,
        variable("STREAMLEASE_ENTRY")?,
        variable("STREAMLEASE_TOKEN")?
    );
    let info: serde_json::Value = serde_json::from_str(&variable("STREAMLEASE_INFO")?)?;
    let number = |name: &str| info[name].as_u64().unwrap_or(0);
    let (parts, fails) = (number("parts"), number("fails"));
    let check = Duration::from_millis(number("check_ms"));
    let pause = Duration::from_millis(number("work_ms") / (parts + 1));

    let mut ledger = Connection::to(ledger)?;
    let Some(answer) = ledger.ask(&format!("begin {lease}"))? else {
        return Ok(REFUSED);
    };
    let mut numbers = answer.split(' ').filter_map(|n| n.parse::<u64>().ok());
    let (done, begun) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    for part in done..parts {
        thread::sleep(pause);
        if ledger.ask(&format!("part {lease} {part}"))?.is_none() {
            return Ok(REFUSED);
        }
        if begun <= fails {
            return Ok(1);
        }
    }
    if begun <= fails {
        return Ok(1);
    }
    // Even if nothing was left to do, what an earlier owner sent late shall find somebody here.
    thread::sleep(if begun > 1 { pause + check } else { pause });
    match ledger.ask(&format!("finish {lease}"))? {
        Some(_) => Ok(0),
        None => Ok(REFUSED),
    }
}

struct Connection {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

impl Connection {
    fn to(ledger: &str) -> io::Result<Self> {
        let writer = TcpStream::connect(ledger)?;
        writer.set_nodelay(true)?;
        let reader = BufReader::new(writer.try_clone()?);
        Ok(Self { reader, writer })
    }

    /// The answer; `None` if it was a refusal.
    fn ask(&mut self, request: &str) -> io::Result<Option<String>> {
        self.writer.write_all(format!("{request}\n").as_bytes())?;
        let mut answer = String::new();
        self.reader.read_line(&mut answer)?;
        let answer = answer.trim_end();
        match answer.split_once(' ').unwrap_or((answer, "")) {
            ("ok", rest) => Ok(Some(rest.to_owned())),
            ("refused", _) => Ok(None),
            _ => Err(io::Error::other(format!("the ledger said {answer:?}"))),
        }
    }
}
