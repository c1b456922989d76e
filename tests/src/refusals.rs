//! [`Refusals`]: commands that a proxy answers with an error, as managed services do.

/// What managed services refuse, each of them some: the union of what is in
/// docs/managed-services.md, and HELLO, which some proxies do not know.
const BY_MANAGED_SERVICES: [&str; 22] = [
    "ACL",
    "BGREWRITEAOF",
    "BGSAVE",
    "CLIENT",
    "CLUSTER",
    "COMMAND",
    "CONFIG",
    "DEBUG",
    "FAILOVER",
    "HELLO",
    "LASTSAVE",
    "MIGRATE",
    "MODULE",
    "MONITOR",
    "OBJECT",
    "PSYNC",
    "REPLICAOF",
    "SAVE",
    "SELECT",
    "SHUTDOWN",
    "SLAVEOF",
    "SYNC",
];

/// How they refuse it.
pub const REFUSALS_OF_MANAGED_SERVICES: [&str; 3] = [
    "ERR unknown command",
    "NOPERM this user has no permissions to run this command",
    "ERR command is not allowed",
];

/// Each with one of these errors in turn.
pub(crate) fn refused_by_managed_services() -> impl Iterator<Item = (&'static str, &'static str)> {
    let errors = REFUSALS_OF_MANAGED_SERVICES.iter().cycle();
    BY_MANAGED_SERVICES.into_iter().zip(errors.copied())
}

/// What is refused, and with which error.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refusals {
    /// A command in capitals, and the error's text.
    commands: Vec<(String, String)>,
}

/// The requests of one connection, while some are refused.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// Of a request whose end has not come yet.
    begun: Vec<u8>,
}

impl Refusals {
    pub(crate) fn add(&mut self, command: &str, error: &str) {
        self.commands
            .push((command.to_ascii_uppercase(), error.to_owned()));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    fn of(&self, command: &[u8]) -> Option<&str> {
        let refused = |(name, _): &&(String, String)| name.as_bytes().eq_ignore_ascii_case(command);
        self.commands
            .iter()
            .find(refused)
            .map(|(_, error)| &**error)
    }
}

impl Requests {
    /// What the server is sent for this, and which commands were refused. A script that
    /// returns the error stands in the place of what is refused: so replies come in the
    /// order of the requests, and nobody has to read them.
    pub(crate) fn pass(&mut self, chunk: &[u8], refusals: &Refusals) -> (Vec<u8>, Vec<String>) {
        self.begun.extend_from_slice(chunk);
        let (mut passed, mut refused) = (Vec::new(), Vec::new());
        while let Some((length, command)) = first_request(&self.begun) {
            let request: Vec<u8> = self.begun.drain(..length).collect();
            match refusals.of(&request[command.clone()]) {
                Some(error) => {
                    refused.push(String::from_utf8_lossy(&request[command]).to_uppercase());
                    passed.extend(answering(error));
                }
                None => passed.extend(request),
            }
        }
        (passed, refused)
    }
}

/// The length of the first whole request, and where its command is.
fn first_request(bytes: &[u8]) -> Option<(usize, std::ops::Range<usize>)> {
    let (count, mut at) = header(bytes, 0, b'*')?;
    let mut command = 0..0;
    for index in 0..count {
        let (length, begin) = header(bytes, at, b'$')?;
        if index == 0 {
            command = begin..begin + length;
        }
        at = begin + length + 2;
    }
    (at <= bytes.len()).then_some((at, command))
}

/// The number of such a line, and where the next one begins.
fn header(bytes: &[u8], at: usize, kind: u8) -> Option<(usize, usize)> {
    let line = bytes.get(at..)?;
    let length = line.windows(2).position(|end| end == b"\r\n")?;
    assert_eq!(line[0], kind, "clients send arrays of strings");
    let number = std::str::from_utf8(&line[1..length]).ok()?.parse().ok()?;
    Some((number, at + length + 2))
}

fn answering(error: &str) -> Vec<u8> {
    let words = ["EVAL", "return {err = ARGV[1]}", "0", error];
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request += &format!("${}\r\n{word}\r\n", word.len());
    }
    request.into_bytes()
}
