//! Places of which there are so many, and of which nobody gets all.
//!
//! Owns: who has how many. The table has an entry for each source that has a place or waits for one, and so is as bounded
//! as those are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Source;

/// So many places in all, and so many for each source; clones are the same ones.
#[derive(Clone, Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    /// How many a source gets.
    each: usize,
    sources: Arc<Mutex<HashMap<Source, Share>>>,
}

/// What a source has of the places.
#[derive(Debug)]
struct Share {
    free: Arc<Semaphore>,
    /// How many have one of them or wait for one.
    users: usize,
}

/// A place of somebody's; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _of_all: OwnedSemaphorePermit,
    _of_source: OwnedSemaphorePermit,
    _user: User,
}

/// Keeps the share of a source.
#[derive(Debug)]
struct User {
    places: Places,
    source: Source,
}

impl Places {
    pub(super) fn new(all: usize, each: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), each, sources: Arc::default() }
    }

    /// Waits until there is any place, for whoever comes next.
    pub(super) async fn any(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        Arc::clone(&self.all).acquire_owned().await.ok()
    }

    /// Gives a place to a source, unless that has its share already.
    pub(super) fn give(&self, of_all: OwnedSemaphorePermit, source: Source) -> Option<Place> {
        let (user, share) = self.user(source);
        let of_source = share.try_acquire_owned().ok()?;
        Some(Place { _of_all: of_all, _of_source: of_source, _user: user })
    }

    /// Waits in line: first among those of the same source, and then, with its share in hand, among all.
    pub(super) async fn enter(&self, source: Source) -> Option<Place> {
        let (user, share) = self.user(source);
        let of_source = share.acquire_owned().await.ok()?;
        let of_all = self.any().await?;
        Some(Place { _of_all: of_all, _of_source: of_source, _user: user })
    }

    fn user(&self, source: Source) -> (User, Arc<Semaphore>) {
        let mut sources = self.sources();
        let share = sources
            .entry(source)
            .or_insert_with(|| Share { free: Arc::new(Semaphore::new(self.each)), users: 0 });
        share.users += 1;
        (User { places: self.clone(), source }, Arc::clone(&share.free))
    }

    fn sources(&self) -> MutexGuard<'_, HashMap<Source, Share>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let mut sources = self.places.sources();
        if let Some(share) = sources.get_mut(&self.source) {
            share.users -= 1;
            if share.users == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn source(number: u8) -> Source {
        Source::of([192, 0, 2, number].into())
    }

    #[tokio::test]
    async fn one_source_leaves_places_for_others() {
        let places = Places::new(5, 2);
        let mut of_one = Vec::new();
        for _ in 0..2 {
            of_one.push(places.enter(source(1)).now_or_never().flatten().unwrap());
        }
        let waiting: Vec<_> = (0..100).map(|_| Box::pin(places.enter(source(1)))).collect();
        let mut waiting: Vec<_> = waiting
            .into_iter()
            .map(|mut one| {
                assert!((&mut one).now_or_never().is_none(), "more than its share");
                one
            })
            .collect();
        let any = places.any().now_or_never().flatten().unwrap();
        assert!(places.give(any, source(1)).is_none(), "more than its share");
        let other = places.enter(source(2)).now_or_never().flatten();
        assert!(other.is_some(), "those who wait have taken the places of others");

        of_one.pop();
        let next = waiting.remove(0).now_or_never().flatten();
        assert!(next.is_some(), "the next one of the same source");
        drop((of_one, next, waiting, other));
        assert!(places.sources().is_empty(), "shares that nobody uses are kept");
        assert_eq!(places.all.available_permits(), 5);
    }

    #[tokio::test]
    async fn all_together_have_so_many() {
        let places = Places::new(3, 2);
        let taken: Vec<_> = [1, 1, 2]
            .map(|number| places.enter(source(number)).now_or_never().flatten().unwrap())
            .into();
        let mut third = Box::pin(places.enter(source(3)));
        assert!((&mut third).now_or_never().is_none());
        drop(taken);
        assert!(third.now_or_never().flatten().is_some());
    }
}
