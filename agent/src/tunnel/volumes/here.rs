//! A volume of this node that is copied into one of an instance: sender and receiver speak to each other without a tunnel.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use dwell_daemon::Lane;
use dwell_engine::{CopyPlace, EngineError, SharedEngine, VolumeCopy};
use dwell_proto::v1::volume_part::Part;
use tokio::sync::mpsc;

use super::{Copies, CopyError, WAITING_MAX, receive, send};

impl Copies {
    /// Copies a directory, in which nothing changes, into a volume that there is not yet, and compares the two. Nothing happens if it
    /// has become the volume already. Dropped early, both threads end soon, and what they have done so far is used the next time.
    pub(crate) async fn copy_here(
        &self,
        engine: &SharedEngine,
        from: PathBuf,
        copy: &VolumeCopy,
    ) -> Result<Result<(), CopyError>, EngineError> {
        let turn = self.turns.take(&copy.instance, &copy.name).await;
        let CopyPlace::Open(into) = engine.begin_copy(copy).await? else { return Ok(Ok(())) };
        let (sent, to_pass_down) = mpsc::channel(WAITING_MAX);
        let (to_receiver, receivers) = mpsc::channel(WAITING_MAX);
        let (said, to_pass_up) = mpsc::channel(WAITING_MAX);
        let (to_sender, senders) = mpsc::channel(WAITING_MAX);
        let (digests, own) = (Arc::clone(&self.digests), Arc::clone(&self.digests));
        let send = move || Ok(send::send(&from, &digests, true, senders, &sent));
        let receive = move || {
            // Until the thread has ended, nobody else is at work on the copy.
            let turn = turn;
            let received = receive::receive(&into, &own, true, receivers, &said);
            drop(said);
            Ok((received, turn))
        };
        // What is passed on goes through here, so that both ends are cut off when this is dropped.
        let (sender, receiver) = (Lane::new("volume"), Lane::new("volume"));
        let (sent, received, (), ()) = tokio::join!(
            sender.run(send),
            receiver.run(receive),
            pass(to_pass_down, to_receiver),
            pass(to_pass_up, to_sender),
        );
        let failed = |error: io::Error| CopyError::at(b"")(error);
        let sent = sent.map_err(failed).and_then(|sent| sent);
        let (received, _turn) = match received.map_err(failed) {
            Ok((received, turn)) => (received, Some(turn)),
            Err(error) => (Err(error), None),
        };
        match (sent, received) {
            // Whoever fails first is the one that says why.
            (Err(error), Err(CopyError::Gone)) | (Ok(()) | Err(CopyError::Gone), Err(error)) => {
                Ok(Err(error))
            }
            (Err(error), _) => Ok(Err(error)),
            (Ok(()), Ok(())) => engine.adopt_copy(copy).await.map(Ok),
        }
    }
}

async fn pass(mut from: mpsc::Receiver<Part>, to: mpsc::Sender<Part>) {
    while let Some(part) = from.recv().await {
        if to.send(part).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use dwell_engine::fake::FakeEngine;
    use dwell_engine::fake::control::TokioClock;

    use super::*;

    fn copy() -> VolumeCopy {
        let (instance, name) = ("db-0".parse().unwrap(), "data".parse().unwrap());
        VolumeCopy { instance, name, image_path: None, of_move: 7 }
    }

    #[tokio::test]
    async fn a_directory_becomes_a_volume_once() {
        let engine: SharedEngine = Arc::new(FakeEngine::new(Arc::new(TokioClock::new())));
        let from = tempfile::tempdir().unwrap();
        let at = |path: &str| from.path().join(path);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::write(at("a/b/file"), vec![7_u8; 3 << 20]).unwrap();
        fs::set_permissions(at("a/b/file"), fs::Permissions::from_mode(0o4750)).unwrap();
        fs::hard_link(at("a/b/file"), at("a/again")).unwrap();
        symlink("/etc/hosts", at("link")).unwrap();
        let copies = Copies::default();
        for _ in 0..2 {
            let done = copies.copy_here(&engine, from.path().to_owned(), &copy()).await.unwrap();
            done.unwrap();
            let data = engine.volume_data(&copy().instance, &copy().name).await.unwrap();
            let file = fs::metadata(data.join("a/b/file")).unwrap();
            assert_eq!((file.len(), file.mode() & 0o7777, file.nlink()), (3 << 20, 0o4750, 2));
            assert_eq!(fs::read_link(data.join("link")).unwrap(), PathBuf::from("/etc/hosts"));
            // What is written there now is the instance's, and stays.
            fs::write(data.join("own"), "own").unwrap();
        }
        let data = engine.volume_data(&copy().instance, &copy().name).await.unwrap();
        assert_eq!(fs::read(data.join("own")).unwrap(), b"own");
        assert!(!from.path().join("own").exists());
    }

    #[tokio::test]
    async fn what_is_not_there_is_named_and_can_be_copied_later() {
        let engine: SharedEngine = Arc::new(FakeEngine::new(Arc::new(TokioClock::new())));
        let from = tempfile::tempdir().unwrap();
        let copies = Copies::default();
        let missing = from.path().join("missing");
        let failed = copies.copy_here(&engine, missing, &copy()).await.unwrap().unwrap_err();
        assert!(failed.to_string().contains("No such file"), "{failed}");
        copies.copy_here(&engine, from.path().to_owned(), &copy()).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_copy_that_is_dropped_ends_and_is_made_again() {
        let engine: SharedEngine = Arc::new(FakeEngine::new(Arc::new(TokioClock::new())));
        let from = tempfile::tempdir().unwrap();
        for number in 0..200 {
            fs::write(from.path().join(number.to_string()), vec![number; 64 << 10]).unwrap();
        }
        let copies = Copies::default();
        let limit = std::time::Duration::from_millis(5);
        let copy = copy();
        let first = copies.copy_here(&engine, from.path().to_owned(), &copy);
        drop(tokio::time::timeout(limit, first).await);
        let again = copies.copy_here(&engine, from.path().to_owned(), &copy);
        again.await.unwrap().unwrap();
        let data = engine.volume_data(&copy.instance, &copy.name).await.unwrap();
        assert_eq!(fs::read_dir(data).unwrap().count(), 200);
    }
}
