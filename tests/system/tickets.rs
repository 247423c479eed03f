//! TLS tickets of two edges that share a secret, tried with OpenSSL's client: whichever edge gave a ticket out, both resume by it, while
//! keys rotate at the one before the other, and while the secret is replaced.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

use tempfile::TempDir;

use crate::harness::bytes::Connect;
use crate::harness::wall_clock::WallClock;
use crate::harness::{Server, Transport, unique, until};
use crate::tiers::{Shape, Tiers, wait_until_ready};

/// For how long a key makes tickets.
const ROTATE_S: i64 = 3_600;
/// By so much the one edge's clock is ahead of the other's, which therefore has each key later.
const APART_S: i64 = 120;
const TLS_1_2: &str = "-tls1_2";
const TLS_1_3: &str = "-tls1_3";
const VERSIONS: [&str; 2] = [TLS_1_2, TLS_1_3];

/// An edge, and its wall clock.
struct Edge {
    server: Server,
    clock: WallClock,
}

impl Edge {
    /// Starts it again with a secret for its tickets.
    fn new(mut server: Server, secret: &str) -> Self {
        let clock = WallClock::new();
        let file = server.dir().join("secret");
        fs::write(&file, secret).unwrap();
        let config = server.dir().join("tidegate.toml");
        let mut text = fs::read_to_string(&config).unwrap();
        text += &format!("tls.tickets.secret_file = {file:?}\ntls.tickets.rotate_s = {ROTATE_S}\n");
        fs::write(&config, text).unwrap();
        server.restart_with(clock.env());
        wait_until_ready(&server);
        Self { server, clock }
    }

    /// Shakes hands, with a ticket of before if there is one. Answers whether that was resumed, and a file with a new ticket.
    fn visit(&self, version: &str, ticket: Option<&Path>, keep: &Path) -> (bool, PathBuf) {
        let next = keep.join(unique("ticket"));
        let mut client = Command::new("openssl");
        client.args(["s_client", "-connect", &self.server.address(Transport::Tls).to_string(), version]);
        client
            .args(["-servername", "localhost", "-verify_return_error", "-CAfile"])
            .arg(self.server.ca_file());
        client.arg("-sess_out").arg(&next);
        if let Some(ticket) = ticket {
            client.arg("-sess_in").arg(ticket);
        }
        let mut client =
            client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = client.stdin.take().unwrap();
        stdin.write_all(&Connect::v5(&unique("c")).bytes()).ok();
        // In TLS 1.3 tickets come with the first answer, whatever that is: the worker has a clock of its own. A later one of TLS 1.2 this client does not write down.
        let has_next = ticket.is_none() || version == TLS_1_3;
        let has_ticket = || {
            let is_over = client.try_wait().unwrap().is_some();
            (is_over || fs::metadata(&next).is_ok_and(|file| file.len() > 0)).then_some(())
        };
        if has_next {
            until(has_ticket, || self.server.log());
        }
        stdin.write_all(b"Q\n").ok();
        drop(stdin);
        let output = client.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            said.contains("Verify return code: 0"),
            "{said}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let next = ticket.filter(|_| !has_next).map_or(next, Path::to_owned);
        (said.contains("Reused, TLS"), next)
    }
}

fn now_s() -> i64 {
    i64::try_from(UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap()
}

/// The middle of the period after this one, seconds since 1970.
fn middle_of_the_next_period() -> i64 {
    let now = now_s();
    now - now % ROTATE_S + ROTATE_S + ROTATE_S / 2
}

/// The wall clock, `seconds` later than the middle of a period; the second edge's is behind.
fn set(edges: &[Edge; 2], middle: i64, seconds: i64) {
    let ahead = middle + seconds - now_s();
    edges[0].clock.set_ahead_s(ahead);
    edges[1].clock.set_ahead_s(ahead - APART_S);
}

#[test]
fn tickets_are_good_at_both_edges_while_keys_rotate_and_the_secret_is_replaced() {
    let mut tiers = Tiers::start_single(&Shape::new(1, 2));
    let keep = TempDir::new().unwrap();
    let first = "one secret for both, of more than 32 bytes";
    let [one, other] = [0, 1].map(|_| Edge::new(tiers.edges.remove(0), first));
    let edges = [one, other];
    // Once: the machine's own clock goes on, perhaps into the next period.
    let first_middle = middle_of_the_next_period();
    let middle = |period| first_middle + period * ROTATE_S;
    set(&edges, middle(0), 0);
    let full = |at: &Edge| {
        VERSIONS.map(|version| {
            let (is_resumed, ticket) = at.visit(version, None, keep.path());
            assert!(!is_resumed);
            (version, ticket)
        })
    };
    // Tickets that are good now, of both versions, of either edge.
    let mut tickets = [full(&edges[0]), full(&edges[1])];
    let first_of_all = tickets.clone();
    let mut all_resume = |when: &str| {
        let mut next = tickets.clone();
        for (maker, of_maker) in tickets.iter().enumerate() {
            for (at, edge) in edges.iter().enumerate() {
                for (number, (version, ticket)) in of_maker.iter().enumerate() {
                    let (is_resumed, new) = edge.visit(version, Some(ticket), keep.path());
                    assert!(is_resumed, "{when}: {version} of edge {maker} at edge {at}");
                    next[at][number].1 = new;
                }
            }
        }
        // So that those of TLS 1.2 are of this period too.
        for (edge, of_edge) in edges.iter().zip(&mut next) {
            of_edge[0].1 = edge.visit(TLS_1_2, None, keep.path()).1;
        }
        tickets = next;
    };
    all_resume("at first");
    let half = ROTATE_S / 2;
    for period in 0..3 {
        // The first edge has the next key, the other one has not; then both have.
        set(&edges, middle(period), half + APART_S / 2);
        all_resume(&format!("between two rotations, {period}"));
        set(&edges, middle(period + 1), 0);
        all_resume(&format!("after rotation {period}"));
    }
    for (edge, tickets) in edges.iter().zip(&first_of_all) {
        for (version, ticket) in tickets {
            assert!(!edge.visit(version, Some(ticket), keep.path()).0, "its key has gone: {version}");
        }
    }

    // The secret is replaced at one edge, later at the other, then its keys rotate.
    for (number, edge) in edges.iter().enumerate() {
        fs::write(edge.server.dir().join("secret"), "another one, of more than 32 bytes as well").unwrap();
        until(|| is_taken(edge).then_some(()), || edge.server.log());
        all_resume(&format!("with a new secret at {} of 2", number + 1));
    }
    for period in 3..5 {
        set(&edges, middle(period), half + APART_S / 2);
        all_resume(&format!("with a new secret, between two rotations, {period}"));
        set(&edges, middle(period + 1), 0);
        all_resume(&format!("with a new secret, after rotation {period}"));
    }
}

/// Whether the files that were changed have been taken.
fn is_taken(edge: &Edge) -> bool {
    edge.server.log().contains("certificates read")
}
