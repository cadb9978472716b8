//! What tells two histories apart.

use std::fmt;

use rk_store::Event;
use sha2::{Digest as _, Sha256};

/// A fingerprint (SHA-256) of a history: of each event's revision, key and value, in order.
///
/// It prints as 64 hexadecimal digits.
#[derive(Clone)]
pub struct Digest {
    hash: Sha256,
    events: u64,
}

impl Default for Digest {
    fn default() -> Self {
        Self { hash: Sha256::new(), events: 0 }
    }
}

impl Digest {
    /// Takes in the next event.
    pub fn add(&mut self, event: &Event) {
        let length = |bytes: &[u8]| (bytes.len() as u64).to_be_bytes();
        self.hash.update(event.revision.0.to_be_bytes());
        self.hash.update(length(event.key.as_bytes()));
        self.hash.update(event.key.as_bytes());
        // A deletion is not an empty value.
        self.hash.update([u8::from(event.value.is_some())]);
        let value = event.value.as_deref().unwrap_or_default();
        self.hash.update(length(value));
        self.hash.update(value);
        self.events += 1;
    }

    /// How many events were taken in.
    pub fn events(&self) -> u64 {
        self.events
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.hash.clone().finalize() {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self}, {} events)", self.events)
    }
}
