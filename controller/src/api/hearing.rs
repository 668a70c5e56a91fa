//! What one node says to an order about its images: what fits the order, and no more of it than a node can have to say. A node
//! that somebody has taken over says whatever it likes, for as long as it is listened to.

use std::time::Duration;

use dwell_core::id::NodeName;
use dwell_proto::v1;
use dwell_proto::v1::images_answer::Says;
use dwell_proto::v1::images_order::What;
use dwell_proto::v1::tunnel_up::Message;
use prost::Message as _;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};

use super::instance::{next, unexpected};
use crate::tunnel::Tunnel;

/// How many bytes of answers a node is heard for: that of 60,000 images, or of a pull that takes a week.
const SAID_MAX: usize = 64 << 20;
/// What each answer counts for at least.
const ANSWER_LEAST: usize = 64;

/// What is asked of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    List,
    Pull,
    Removal,
    Push,
}

impl Asked {
    pub(crate) fn of(order: &What) -> Self {
        match order {
            What::List(_) => Self::List,
            What::Pull(_) | What::Ensure(_) => Self::Pull,
            What::Remove(_) | What::Prune(_) => Self::Removal,
            What::Push(_) => Self::Push,
        }
    }

    /// How long a node may take to say something more. For a list its engine adds up the sizes of all layers; an engine that
    /// says nothing of a pull for two minutes is given up; there may be many images to remove; and of an archive nothing is
    /// said while it comes and is unpacked.
    fn silence(self) -> Duration {
        Duration::from_secs(match self {
            Self::List => 150,
            Self::Pull => 300,
            Self::Removal => 3600,
            Self::Push => 6 * 3600,
        })
    }

    /// How long it may take for all of it.
    fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::List => 600,
            Self::Removal => 2 * 3600,
            Self::Pull | Self::Push => 24 * 3600,
        })
    }

    fn is_answered_by(self, says: &Says) -> bool {
        match says {
            Says::Done(_) => true,
            Says::Page(_) => self == Self::List,
            Says::Progress(_) => self == Self::Pull,
            Says::Removal(_) => self == Self::Removal,
            Says::Wanted(_) => self == Self::Push,
        }
    }
}

/// A node that is listened to.
pub(crate) struct Hearing {
    node: NodeName,
    asked: Asked,
    /// When it has to have come to an end.
    until: Instant,
    /// How many bytes it may still say.
    left: usize,
}

impl Hearing {
    /// From now on.
    pub(crate) fn new(node: NodeName, asked: Asked) -> Self {
        Self { node, asked, until: Instant::now() + asked.limit(), left: SAID_MAX }
    }

    /// What it says next, or why it is listened to no more.
    pub(crate) async fn next(&mut self, tunnel: &mut Tunnel) -> Result<v1::ImagesAnswer, Status> {
        let node = &self.node;
        let late = |_| self.late();
        match timeout_at(self.patience(), next(&mut tunnel.up)).await.map_err(late)? {
            Ok(Some(Message::Images(answer))) => {
                self.take(&answer)?;
                Ok(answer)
            }
            Ok(Some(_)) => Err(unexpected()),
            Ok(None) => Err(Status::unavailable(format!(
                "the agent of node {node} went away without an answer"
            ))),
            // What makes no sense was refused before.
            Err(status) if status.code() == Code::InvalidArgument => Err(Status::unimplemented(
                format!("{}; is the agent of node {node} of an earlier version?", status.message()),
            )),
            Err(status) => Err(status),
        }
    }

    /// Until when it may be silent.
    fn patience(&self) -> Instant {
        self.until.min(Instant::now() + self.asked.silence())
    }

    fn late(&self) -> Status {
        let node = &self.node;
        Status::deadline_exceeded(if Instant::now() < self.until {
            let seconds = self.asked.silence().as_secs();
            format!("node {node} has said nothing for {seconds} s")
        } else {
            let seconds = self.asked.limit().as_secs();
            format!("node {node} has not come to an end within {seconds} s")
        })
    }

    fn take(&mut self, answer: &v1::ImagesAnswer) -> Result<(), Status> {
        if answer.says.as_ref().is_none_or(|says| !self.asked.is_answered_by(says)) {
            return Err(unexpected());
        }
        let length = answer.encoded_len().max(ANSWER_LEAST);
        let too_much = || {
            Status::resource_exhausted(format!(
                "node {} says more of its images than the {} MiB that are heard; is its agent what it should be?",
                self.node,
                SAID_MAX >> 20
            ))
        };
        self.left = self.left.checked_sub(length).ok_or_else(too_much)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hearing(asked: Asked) -> Hearing {
        Hearing::new("h1".parse().unwrap(), asked)
    }

    fn answer(says: Says) -> v1::ImagesAnswer {
        v1::ImagesAnswer { says: Some(says) }
    }

    /// A word now and then is not enough to be listened to for ever.
    #[tokio::test(start_paused = true)]
    async fn a_node_that_talks_on_has_to_come_to_an_end() {
        let hearing = hearing(Asked::List);
        let begun = Instant::now();
        assert_eq!(hearing.patience() - begun, Asked::List.silence());
        assert!(hearing.late().message().contains("nothing for 150 s"));
        tokio::time::advance(Duration::from_secs(599)).await;
        assert_eq!(hearing.patience() - begun, Asked::List.limit());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(hearing.late().message().contains("within 600 s"));
    }

    #[tokio::test]
    async fn short_words_count_too() {
        let mut hearing = hearing(Asked::Pull);
        let word = answer(Says::Progress(v1::ImageProgress::default()));
        let heard = (0..).take_while(|_| hearing.take(&word).is_ok()).count();
        assert_eq!(heard, SAID_MAX / ANSWER_LEAST);
    }

    #[tokio::test]
    async fn only_what_fits_the_order_is_an_answer() {
        let page = answer(Says::Page(v1::ImagePage::default()));
        let done = answer(Says::Done(true));
        assert!(hearing(Asked::List).take(&page).is_ok());
        for asked in [Asked::Pull, Asked::Removal, Asked::Push] {
            assert!(hearing(asked).take(&page).is_err(), "{asked:?}");
            assert!(hearing(asked).take(&done).is_ok(), "{asked:?}");
        }
        assert!(hearing(Asked::List).take(&v1::ImagesAnswer::default()).is_err());
    }
}
