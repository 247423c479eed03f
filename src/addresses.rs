//! The addresses that were bound, for whoever needs them when ports were left to the system.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;

use files::private::{self, Readers};

/// Writes `{"name": "address:port"}` so that the file appears whole.
pub(crate) fn write(path: &Path, addresses: &BTreeMap<String, SocketAddr>) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(addresses)?;
    private::replace(path, Readers::Everybody, |file| file.write_all(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_a_json_object_of_strings() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("addresses.json");
        let addresses = BTreeMap::from([("mqtt".to_owned(), SocketAddr::from(([127, 0, 0, 1], 1883)))]);
        write(&path, &addresses).unwrap();
        let read: BTreeMap<String, String> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(read["mqtt"], "127.0.0.1:1883");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
