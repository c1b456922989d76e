//! [`shard`]: one large service as several.

use crate::machine::mix;

/// Which of `shards` services a data stream belongs to: a number below `shards`, by the
/// stream's name alone, and the same in every version and process.
///
/// A service is on one Redis server, and on one node of a cluster. One that is too large
/// for that is split by name: `orders-0`, `orders-1`, … Producers announce a stream in the
/// service of its shard; a process works on all of them, or some, with a client for each.
///
/// ```
/// # use streamlease_core::shard;
/// let service = format!("orders-{}", shard("call-17", 8));
/// assert_eq!(service, "orders-0");
/// ```
///
/// Another number of shards gives most streams another service. A stream that is announced
/// in its old and in its new service has an owner in each. So change the number when nothing
/// is announced or held; or announce under the new number only what is not, or no longer, in
/// the old services, and have their consumers stay until they are empty.
pub fn shard(stream: impl AsRef<str>, shards: u32) -> u32 {
    // FNV-1a, then mixed: its low bits alone are not even.
    let hash = stream
        .as_ref()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    u32::try_from(mix(hash) % u64::from(shards.max(1))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::shard;

    #[test]
    fn the_shard_of_a_stream_never_changes() {
        let shards = ["", "call-1", "call-2", "tenant/ä", "call-17"].map(|name| shard(name, 1000));
        assert_eq!(shards, [203, 364, 137, 337, 400]);
    }

    #[test]
    fn streams_are_spread_evenly_whatever_the_number_of_shards() {
        for shards in [1, 2, 3, 7, 8, 16, 100] {
            let mut counts = vec![0_u32; shards as usize];
            for number in 0..100_000 {
                counts[shard(format!("call-{number}"), shards) as usize] += 1;
            }
            let even = 100_000 / shards;
            let (least, most) = (counts.iter().min(), counts.iter().max());
            let is_near =
                |count: Option<&u32>| count.is_some_and(|count| count.abs_diff(even) <= even / 8);
            assert!(
                is_near(least) && is_near(most),
                "{shards}: {least:?} to {most:?}"
            );
        }
        assert_eq!(shard("s", 0), 0, "no shards are one");
    }
}
