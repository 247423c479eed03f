//! What can be wrong with a store that is damaged, and what becomes of it then. [`super::recovery`] finds it.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What becomes of a store that is damaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDamage {
    /// It does not open, and is left as it is.
    #[default]
    Refuse,
    /// The damaged part is kept in `damaged/` below the store's directory, and the store goes on with the rest.
    SetAside,
}

/// What is wrong with a store that is damaged.
#[derive(Debug, Error)]
pub enum Damage {
    /// Part of a journal cannot be read, and whole batches are behind it, or other journals.
    #[error(
        "journal {file} cannot be read for {bytes} bytes from byte {at} on; behind them are {batches} whole batches \
         with {records} records"
    )]
    Journal {
        /// Its name.
        file: String,
        /// Where the damage begins.
        at: u64,
        /// Its length.
        bytes: u64,
        /// What can be read behind it in this journal.
        batches: usize,
        /// Records in these.
        records: u64,
    },
    /// A journal is not there.
    #[error("journal {id}.jnl is missing")]
    JournalMissing {
        /// Its number.
        id: u64,
    },
    /// The database is not there.
    #[error("its database is missing, which had {batches} batches")]
    DatabaseMissing {
        /// How many were acknowledged.
        batches: u64,
    },
    /// The list of a keyspace's tables is not as it was written.
    #[error("the list of tables in {dir} cannot be read")]
    Tables {
        /// Below the database.
        dir: String,
    },
    /// Part of what was acknowledged is not there.
    #[error("{keyspace} ends with batch {found}, but batch {expected} was acknowledged")]
    Behind {
        /// Which part.
        keyspace: &'static str,
        /// The last batch in it.
        found: u64,
        /// The last batch that belongs there.
        expected: u64,
    },
    /// The database does not read what is there.
    #[error("its database cannot be read")]
    Unreadable(#[source] fjall::Error),
    /// The database stopped while it read what is there.
    #[error("its database cannot be read: it stopped half-way")]
    Stopped,
    /// A record makes no sense.
    #[error("{0} makes no sense")]
    Record(&'static str),
}

impl Damage {
    /// Whether nothing in the database can be used.
    pub(super) fn is_total(&self) -> bool {
        matches!(
            self,
            Self::Unreadable(_)
                | Self::Stopped
                | Self::Record(_)
                | Self::Tables { .. }
                | Self::DatabaseMissing { .. }
        )
    }
}
