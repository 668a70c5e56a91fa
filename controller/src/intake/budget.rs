//! How much nodes may have begun and not finished, each of them and all together.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tonic::Status;

use super::Call;
use crate::pki::Enrolment;

/// How many bytes the unfinished messages of one node may be announced to have: four of the largest.
pub(super) const NODE_MAX_BYTES: usize = 64 << 20;
/// The same for all nodes together.
pub(super) const ALL_MAX_BYTES: usize = 512 << 20;
/// What each node has of its own, whatever all others have begun.
pub(super) const OWN_BYTES: usize = 256 << 10;

/// What is begun and unfinished; clones are the same.
#[derive(Clone, Default)]
pub(super) struct Budget(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    /// Announced by all nodes.
    bytes: usize,
    /// By enrolment: an earlier holder of a node's name uses up nothing of the present one's.
    accounts: HashMap<Enrolment, Weak<Account>>,
}

/// What one node has begun.
pub(super) struct Account {
    enrolment: Enrolment,
    budget: Budget,
    begun: Mutex<Begun>,
}

#[derive(Default)]
struct Begun {
    bytes: usize,
    /// How many calls of each kind have not got to the point.
    calls: HashMap<Call, usize>,
}

/// A message that was announced; no longer, when this is dropped.
pub(super) struct Charge {
    account: Arc<Account>,
    bytes: usize,
}

/// A call that has not got to the point; no longer, when this is dropped.
pub(super) struct Opening {
    account: Arc<Account>,
    call: Call,
}

impl Budget {
    /// The account of a node.
    pub(super) fn account(&self, enrolment: &Enrolment) -> Arc<Account> {
        let mut table = self.table();
        if let Some(account) = table.accounts.get(enrolment).and_then(Weak::upgrade) {
            return account;
        }
        let account = Arc::new(Account {
            enrolment: enrolment.clone(),
            budget: self.clone(),
            begun: Mutex::default(),
        });
        table.accounts.insert(enrolment.clone(), Arc::downgrade(&account));
        account
    }

    /// How many bytes are announced, and how many nodes have an account.
    #[cfg(test)]
    pub(super) fn in_use(&self) -> (usize, usize) {
        let table = self.table();
        (table.bytes, table.accounts.len())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    /// A message of so many bytes is announced.
    pub(super) fn charge(self: &Arc<Self>, bytes: usize) -> Result<Charge, Status> {
        let mut table = self.budget.table();
        let mut begun = self.begun();
        if begun.bytes + bytes > NODE_MAX_BYTES {
            return Err(Status::resource_exhausted(
                "this node has begun too many large messages; finish some of them first",
            ));
        }
        // What a node says of itself now and then is heard however much others have begun.
        if begun.bytes + bytes > OWN_BYTES && table.bytes + bytes > ALL_MAX_BYTES {
            return Err(Status::resource_exhausted(
                "too many nodes send large messages; try again in a moment",
            ));
        }
        table.bytes += bytes;
        begun.bytes += bytes;
        Ok(Charge { account: Arc::clone(self), bytes })
    }

    /// A call begins.
    pub(super) fn open(self: &Arc<Self>, call: Call) -> Result<Opening, Status> {
        let mut begun = self.begun();
        let count = begun.calls.entry(call).or_default();
        if *count >= call.openings_max() {
            return Err(Status::resource_exhausted(format!(
                "this node has begun {count} calls of this kind and says nothing on them; try again in a moment"
            )));
        }
        *count += 1;
        Ok(Opening { account: Arc::clone(self), call })
    }

    fn begun(&self) -> MutexGuard<'_, Begun> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.budget.table().bytes -= self.bytes;
        self.account.begun().bytes -= self.bytes;
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(count) = self.account.begun().calls.get_mut(&self.call) {
            *count -= 1;
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut table = self.budget.table();
        // Another one may have been made meanwhile.
        if table.accounts.get(&self.enrolment).is_some_and(|one| one.strong_count() == 0) {
            table.accounts.remove(&self.enrolment);
        }
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Budget({} bytes begun)", self.table().bytes)
    }
}
