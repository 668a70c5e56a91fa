//! While the owner works, connections are served.

use std::sync::mpsc;
use std::time::Duration;

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::fixture::{Fixture, unix};

/// This test has one thread: if the owner worked on it, nothing would be answered until the owner gave up.
#[tokio::test]
async fn pings_are_answered_while_the_owner_works() {
    let fixture = Fixture::start().await;
    let owner = fixture.owner().clone();
    let (begun, begins) = tokio::sync::oneshot::channel();
    let (release, released) = mpsc::channel::<()>();
    let work = tokio::spawn(async move {
        owner
            .read(move |_| {
                begun.send(()).unwrap();
                released.recv_timeout(Duration::from_secs(10))
            })
            .await
    });
    begins.await.unwrap();
    let channel = unix(&fixture.config.socket).await.unwrap();
    HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap();
    release.send(()).unwrap();
    work.await.unwrap().unwrap().unwrap();
}
