//! What the examples share, and no program needs: [`Process`], a stand-in for a
//! process that can be killed and stopped without leaving the program,
//! [`remove_keys`], which leaves somebody's Redis as it was, and what runs functions
//! that pages show: [`on_one_stream`] and [`after_a_death`].

mod on_pages;
#[cfg(doctest)]
mod pages;
mod process;

pub use on_pages::{after_a_death, on_one_stream};
pub use process::Process;

/// Deletes what a service has in Redis; for the services that examples make up.
pub fn remove_keys(url: &str, service: &str) -> redis::RedisResult<()> {
    let mut connection = redis::Client::open(url)?.get_connection()?;
    let pattern = format!("*{service}-input*");
    let mut cursor = 0_u64;
    loop {
        let (next, keys): (u64, Vec<String>) = redis::cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(&pattern)
            .arg("COUNT")
            .arg(1_000)
            .query(&mut connection)?;
        for key in keys {
            redis::cmd("DEL").arg(key).exec(&mut connection)?;
        }
        if next == 0 {
            return Ok(());
        }
        cursor = next;
    }
}
