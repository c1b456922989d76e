#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| streamlease_backend_redis_rs::fuzzing::lock_reply(data));
