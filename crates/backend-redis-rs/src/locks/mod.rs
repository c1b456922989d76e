//! Lock managers.

pub(crate) mod per_stream;
