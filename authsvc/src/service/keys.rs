//! The keys of the service: one signs passports, others are announced besides, so that workers know the next key before it
//! signs and the last one until its passports have ended.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use files::Snapshot;
use link::{KeySet, PassportSigner, PublicKey};
use serde::{Deserialize, Serialize};

use super::seal::Sealer;
use crate::AuthError;
use crate::named::Named;
use crate::watched::Watched;

/// Where the keys are.
const SECTION: &str = "passport";

link::settings! {
    /// `[passport]` of the service: how passports are signed, and how long they are good.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct SigningConfig {
        /// PEM file of the private key (PKCS #8; Ed25519 or P-256) that signs passports, the same for all replicas; needed.
        /// Read again when it changes, like the others.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub signing_key_file: Option<PathBuf> = None;
        /// PEM files of keys, private or public, that will sign later and are announced already.
        pub next_key_files: Vec<PathBuf> = Vec::new();
        /// PEM files of keys, private or public, that have signed and whose passports are still good.
        pub old_key_files: Vec<PathBuf> = Vec::new();
        /// Seconds that a passport is good. Edges renew it before.
        pub lifetime_s: u64 = 3600, in 1..=31_536_000;
    }
}

/// What signs, what is announced, and what opens states.
pub(crate) struct Keys {
    pub(crate) signer: Arc<PassportSigner>,
    /// The first seals; the others open what was sealed before a key was replaced, or after.
    sealers: Vec<Arc<Sealer>>,
    /// The body of the key set.
    pub(crate) announced: Bytes,
}

impl SigningConfig {
    /// Reads the keys.
    ///
    /// # Errors
    /// A setting is out of bounds, or a file holds no such key.
    pub(super) fn open(&self) -> Result<Watched<Keys>, AuthError> {
        self.check_bounds(SECTION)?;
        let Some(signing) = self.signing_key_file.clone() else {
            let problem =
                "is needed: the private key that passports are signed with (tidegate certs DIR makes a pair)";
            let (key, problem) = ("signing_key_file", problem.to_owned());
            return Err(AuthError::Section { section: SECTION, key, problem });
        };
        let also: Vec<_> = [("next_key_files", &self.next_key_files), ("old_key_files", &self.old_key_files)]
            .into_iter()
            .flat_map(|(key, paths)| paths.iter().map(move |path| (key, path.clone())))
            .collect();
        let paths: Vec<_> = also.iter().map(|(_, path)| path).chain([&signing]).cloned().collect();
        Watched::open("keys of passports", &paths, move |found, before| {
            Keys::parse(&signing, &also, found, before)
        })
    }
}

impl Keys {
    fn parse(
        signing: &Path,
        also: &[(&'static str, PathBuf)],
        found: &Snapshot,
        before: Option<&Self>,
    ) -> Result<Self, AuthError> {
        let file = Named::new(SECTION, "signing_key_file", signing);
        let signer = PassportSigner::from_pem(file.bytes(found)?).map_err(|error| file.unusable(&error))?;
        let signer = Arc::new(signer);
        let own = Sealer::new(&signer).map(Arc::new);
        let mut sealers: Vec<_> = own.into_iter().collect();
        let mut public = vec![signer.public_key().clone()];
        for (key, path) in also {
            let file = Named::new(SECTION, key, path);
            let pem = file.bytes(found)?;
            if let Ok(other) = PassportSigner::from_pem(pem) {
                sealers.extend(Sealer::new(&other).map(Arc::new));
                public.push(other.public_key().clone());
            } else {
                public.extend(PublicKey::from_pem(pem).map_err(|error| file.unusable(&error))?);
            }
        }
        // What was sealed just before the key was replaced.
        if let Some(before) = before.filter(|before| before.signer.public_key() != signer.public_key()) {
            sealers.extend(before.sealers.first().cloned());
        }
        let set = serde_json::to_vec(&KeySet::new(&public)).unwrap_or_default();
        Ok(Self { signer, sealers, announced: set.into() })
    }

    /// What seals, if anything does.
    pub(crate) fn sealer(&self) -> Option<&Sealer> {
        self.sealers.first().map(|sealer| &**sealer)
    }

    /// Everything that may open a state.
    pub(crate) fn sealers(&self) -> impl Iterator<Item = &Sealer> {
        self.sealers.iter().map(|sealer| &**sealer)
    }
}
