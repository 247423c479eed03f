//! Writes the packets of the case tables as a seed corpus for fuzzing: `cargo run -p tidegate-mqtt --example corpus -- DIR`
//! fills `DIR/decode` (one packet a file) and `DIR/stream` (a chunking rule, then several packets).

#[path = "../tests/it/vector/mod.rs"]
#[allow(dead_code, reason = "the tables are shared with the tests, which read more of them")]
mod vector;

use std::path::PathBuf;
use std::{env, fs, io};

/// Packets in one seed of the stream target.
const PACKETS_PER_STREAM: usize = 8;

/// First bytes of a stream seed: how the target cuts it into chunks.
const CHUNKING: [u8; 4] = [0, 1, 7, 255];

fn main() -> io::Result<()> {
    let Some(dir) = env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "usage: corpus DIR"));
    };
    let rows = vector::all();
    let decode = dir.join("decode");
    fs::create_dir_all(&decode)?;
    for (at, row) in rows.iter().enumerate() {
        fs::write(decode.join(format!("row-{at:03}")), &row.bytes)?;
    }
    let stream = dir.join("stream");
    fs::create_dir_all(&stream)?;
    for (at, group) in rows.chunks(PACKETS_PER_STREAM).enumerate() {
        let mut bytes = CHUNKING.to_vec();
        group.iter().for_each(|row| bytes.extend_from_slice(&row.bytes));
        fs::write(stream.join(format!("rows-{at:03}")), &bytes)?;
    }
    Ok(())
}
