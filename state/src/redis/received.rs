//! What is remembered of a QoS 2 message from a client until PUBREL: its identity, and which members of shares were chosen.

use std::sync::Arc;

use super::op::Result;
use crate::{Instead, StoreError, StoredSession, Target};

pub(super) const DAMAGED: StoreError = StoreError::Damaged { what: "received identifier" };

/// What a message is known by, wherever it goes.
pub(super) type Identity = [u8; 16];

/// An identity, then for each member that was chosen: share (length in 2 bytes, text), client (likewise), incarnation.
pub(super) struct Known {
    identity: Identity,
    choices: Vec<u8>,
}

impl Known {
    /// Of a message that comes for the first time.
    pub(super) fn new(identity: Identity, targets: &[Target]) -> Self {
        let mut choices = Vec::new();
        for Target { session, share, .. } in targets {
            if let Some(share) = share {
                put_text(&mut choices, share);
                put_text(&mut choices, &session.client_id);
                choices.extend_from_slice(&session.incarnation.to_le_bytes());
            }
        }
        Self { identity, choices }
    }

    /// Reads what [`Known::with_state`] wrote behind the state.
    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        let (identity, choices) = bytes.split_first_chunk().ok_or(DAMAGED)?;
        Ok(Self { identity: *identity, choices: choices.to_vec() })
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    pub(super) fn with_state(&self, state: u8) -> Vec<u8> {
        [&[state][..], &self.identity, &self.choices].concat()
    }

    /// Puts the members that were chosen first in the place of others of their shares. Answers where, and whom.
    pub(super) fn choose_again(&self, targets: &mut [Target]) -> Vec<Instead> {
        let mut instead = Vec::new();
        for (at, target) in targets.iter_mut().enumerate() {
            let Some(share) = &target.share else { continue };
            if let Some(chosen) = self.chosen(share).filter(|chosen| *chosen != *target.session) {
                target.session = Arc::new(chosen);
                instead.push(Instead { target: at, chosen: Arc::clone(&target.session) });
            }
        }
        instead
    }

    fn chosen(&self, share: &str) -> Option<StoredSession> {
        let mut rest = &self.choices[..];
        while !rest.is_empty() {
            let (name, client_id) = (take_text(&mut rest)?, take_text(&mut rest)?);
            let (incarnation, behind) = rest.split_first_chunk()?;
            rest = behind;
            if name == share {
                let incarnation = u64::from_le_bytes(*incarnation);
                return Some(StoredSession { client_id: client_id.into(), incarnation });
            }
        }
        None
    }
}

/// Topic Filters and Client Identifiers are no longer than 65,535 bytes.
fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn take_text<'a>(from: &mut &'a [u8]) -> Option<&'a str> {
    let (length, rest) = from.split_first_chunk()?;
    let (text, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    *from = rest;
    std::str::from_utf8(text).ok()
}
