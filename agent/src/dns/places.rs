//! How much may go on at once, in all and for one client, so that one that asks too much harms no other.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// A number of places.
#[derive(Debug)]
pub(super) struct Places {
    all: usize,
    each: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// A place that is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    client: IpAddr,
}

impl Places {
    /// `all` of them, of which one client may have `each`.
    pub(super) fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { all, each, taken: Mutex::default() })
    }

    /// A place for a client, if there is one.
    pub(super) fn take(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        // Clients without a place are not kept, so these are at most as many as there are places.
        if taken.values().sum::<usize>() >= self.all {
            return None;
        }
        let own = taken.entry(client).or_default();
        if *own >= self.each {
            return None;
        }
        *own += 1;
        Some(Place { places: Arc::clone(self), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_cannot_take_them_all() {
        let places = Places::new(3, 2);
        let client = |last| IpAddr::from([10, 80, 0, last]);
        let first = places.take(client(1)).unwrap();
        let second = places.take(client(1)).unwrap();
        assert!(places.take(client(1)).is_none());
        let third = places.take(client(2)).unwrap();
        assert!(places.take(client(3)).is_none());
        drop(first);
        assert!(places.take(client(3)).is_some());
        drop((second, third));
        assert!(places.taken.lock().unwrap().is_empty());
    }
}
