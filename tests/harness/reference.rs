//! An HTTP endpoint of somebody's own, which says what a test tells it to.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

/// A request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Without the query.
    pub(crate) path: String,
    pub(crate) query: String,
    /// By name in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Asked {
    fn read(head: &str, body: &str) -> Self {
        let mut lines = head.split("\r\n");
        let mut line = lines.next().unwrap_or_default().split(' ');
        let method = line.next().unwrap_or_default().to_owned();
        let target = line.next().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect();
        Self { method, path: path.to_owned(), query: query.to_owned(), headers, body: body.to_owned() }
    }

    /// The body, which is JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// A field of the form in the body or, without one, in the query.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let form = if self.body.is_empty() { &self.query } else { &self.body };
        let value = form.split('&').find_map(|field| field.strip_prefix(name)?.strip_prefix('='))?;
        let mut bytes = Vec::new();
        let mut rest = value.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'+' => b' ',
                b'%' => {
                    let digits = [rest.next()?, rest.next()?];
                    u8::from_str_radix(str::from_utf8(&digits).ok()?, 16).ok()?
                }
                byte => byte,
            });
        }
        String::from_utf8(bytes).ok()
    }
}

/// Status and body; a body that begins with `{` is JSON.
pub(crate) type Said = (u16, String);

/// Answers each request with what `answer` makes of it, on threads that end with the test.
pub(crate) fn endpoint(answer: impl Fn(&Asked) -> Said + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        while let Ok((socket, _)) = listener.accept() {
            let answer = answer.clone();
            std::thread::spawn(move || serve(socket, &*answer));
        }
    });
    address
}

fn serve(mut socket: TcpStream, answer: &dyn Fn(&Asked) -> Said) {
    let mut read = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let asked = Asked::read(head, body);
            let length = asked.headers.get("content-length").map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                read.clear();
                let (status, said) = answer(&asked);
                let kind = if said.starts_with('{') { "application/json" } else { "text/plain" };
                let length = said.len();
                // In one write: the second of two waits until the first is acknowledged, which takes its time.
                let answer = format!(
                    "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{said}"
                );
                if socket.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        }
        match socket.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(length) => read.extend_from_slice(&chunk[..length]),
        }
    }
}
