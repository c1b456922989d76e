//! A server that refuses what it allowed before: that passes, like any outage.

use std::time::Duration;

use streamlease_core::{Completion, ErrorKind, Event};
use streamlease_tests::RedisServer;

use crate::support::{World, on_redis, on_redis_with_session_leases};

on_redis!(
    rights_that_are_gone_for_a_second_end_no_consumer,
    a_consumer_that_was_never_allowed_to_read_ends_and_says_so,
);
on_redis_with_session_leases!(
    rights_that_are_gone_for_a_second_end_no_consumer,
    a_consumer_that_was_never_allowed_to_read_ends_and_says_so,
);

/// A deployment of rights (`ACL LOAD`): every client ended for good.
async fn rights_that_are_gone_for_a_second_end_no_consumer(world: World) {
    let server = RedisServer::builder()
        .config("user worker on >pw ~* &* +@all")
        .start();
    let url = server.url_with("worker", "pw", 0);
    let world = world.with_server(server).with_url(url);
    let mut a = world.start("a").await;
    for rights in ["-@scripting", "-xreadgroup", "-@all"] {
        world.submit(&["s"]).await;
        let lease = a.lease().await;
        let _: () = world.redis().run(&["ACL", "SETUSER", "worker", rights]);
        match a.event_within(Duration::from_secs(1)).await {
            None => {}
            Some(Event::StreamDisowned(_)) => assert_ne!(rights, "-xreadgroup"),
            Some(event) => panic!("{rights}: {event:?}"),
        }
        let _: () = world.redis().run(&["ACL", "SETUSER", "worker", "+@all"]);
        if rights != "-xreadgroup" {
            assert!(!lease.is_valid(), "{rights}");
            let again = a.lease().await;
            assert!(again.token() > lease.token(), "{rights}");
            assert_eq!(again.complete().await.unwrap(), Completion::Completed);
        } else {
            assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
        }
    }
    world.nothing_is_left().await;
}

/// Its setup has to be put right: that is not to be waited for.
async fn a_consumer_that_was_never_allowed_to_read_ends_and_says_so(world: World) {
    let server = RedisServer::builder()
        .config("user worker on >pw ~* &* +@all -xreadgroup")
        .start();
    let url = server.url_with("worker", "pw", 0);
    let world = world.with_server(server).with_url(url);
    let process = world.process();
    let provider = world.provider().await;
    let (client, mut events) = world.begin("a", provider, &process, |b| b);
    let error = match world.within("an answer", client.started()).await {
        Err(error) => error,
        Ok(()) => match world.within("the end", events.next()).await {
            Some(Event::Terminated(end)) => {
                assert!(
                    end.to_string().contains("XREADGROUP") || end.to_string().contains("NOPERM")
                );
                assert_eq!(end.error().unwrap().kind(), ErrorKind::Denied);
                return;
            }
            event => panic!("{event:?}"),
        },
    };
    assert_eq!(error.kind(), ErrorKind::Denied);
}
