//! Listening to the engine: one stream of events after the other, for as long as the agent runs.

use std::time::Duration;

use dwell_agent_core::Input;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use dwell_engine::SharedEngine;

/// The first pause before an engine that is away is asked again; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause. Also how long instances may stay down after the engine is back.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Tells `news` what the engine tells. Ends when nobody listens any more.
pub(super) async fn follow(engine: SharedEngine, news: mpsc::Sender<Input>) {
    let mut pause = PAUSE_MIN;
    while !news.is_closed() {
        let reason = match engine.events().await {
            Ok(mut events) => {
                pause = PAUSE_MIN;
                if news.send(Input::Connected).await.is_err() {
                    return;
                }
                loop {
                    match events.next().await {
                        Some(Ok(event)) => {
                            if news.send(Input::Event(event)).await.is_err() {
                                return;
                            }
                        }
                        Some(Err(error)) => break error.to_string(),
                        None => break "the engine closed its stream of events".to_owned(),
                    }
                }
            }
            Err(error) => error.to_string(),
        };
        if news.send(Input::Lost { reason }).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
