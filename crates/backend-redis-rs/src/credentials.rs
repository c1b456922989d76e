//! [`CredentialProvider`]: as whom to log in, asked at each connect.

use std::fmt;

use async_trait::async_trait;
use streamlease_core::Result;

/// A user's name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: Option<String>,
    password: String,
}

impl Credentials {
    /// An ACL user's.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            user: Some(user.into()),
            password: password.into(),
        }
    }

    /// The default user's (`requirepass`).
    pub fn password(password: impl Into<String>) -> Self {
        Self {
            user: None,
            password: password.into(),
        }
    }

    #[cfg(any(feature = "tokio", feature = "smol"))]
    pub(crate) fn into_parts(self) -> (Option<String>, String) {
        (self.user, self.password)
    }
}

/// Without the password.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// As whom to log in, for passwords and tokens that change.
///
/// Asked at each connect, by several connects at once, and its time is part of theirs. An
/// error is that of the connect: [`Unavailable`](streamlease_core::ErrorKind::Unavailable)
/// is tried again, [`Denied`](streamlease_core::ErrorKind::Denied) before anything has
/// worked is the end of a client. A connection that is open stays as it is, so credentials
/// have to be good for as long as the server lets those in that have logged in with them.
#[async_trait]
pub trait CredentialProvider: Send + Sync {
    /// Who to be for the next connection.
    async fn credentials(&self) -> Result<Credentials>;
}

/// Always the same.
#[async_trait]
impl CredentialProvider for Credentials {
    async fn credentials(&self) -> Result<Credentials> {
        Ok(self.clone())
    }
}
