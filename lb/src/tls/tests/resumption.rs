//! Tickets at the edge that gave them out, at its neighbours, and at strangers.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Connects, carries a byte each way so that tickets arrive, and says whether a session was resumed.
async fn visit(server: &TlsServer, client: &Arc<ClientConfig>) -> bool {
    let (mut near, mut far) = connect(&server.acceptor(), Arc::clone(client)).await.unwrap();
    far.write_all(b"a").await.unwrap();
    near.read_exact(&mut [0]).await.unwrap();
    near.write_all(b"b").await.unwrap();
    far.read_exact(&mut [0]).await.unwrap();
    near.facts().unwrap().resumed
}

#[tokio::test]
async fn session_resumes_where_it_began() {
    let fixture = Fixture::new();
    let server = fixture.server();
    for version in BOTH {
        let client = fixture.client().with_version(version).config();
        assert!(!visit(&server, &client).await);
        assert!(visit(&server, &client).await);
        reload(&server).unwrap();
        assert!(visit(&server, &client).await, "a reload that changes nothing keeps the tickets");
    }
}

#[tokio::test]
async fn session_resumes_at_every_edge_with_the_secret() {
    let mut fixture = Fixture::new();
    fixture.config.tickets.secret_file = Some(fixture.authority.write("secret", [7; 32]));
    let (one, other) = (fixture.server(), fixture.server());
    fixture.config.tickets.secret_file = Some(fixture.authority.write("another", [8; 32]));
    let stranger = fixture.server();
    for version in BOTH {
        let client = fixture.client().with_version(version).config();
        assert!(!visit(&one, &client).await);
        assert!(visit(&other, &client).await);
        assert!(visit(&one, &client).await);
        assert!(!visit(&stranger, &client).await);
    }
}

#[tokio::test]
async fn random_keys_are_good_in_one_place_only() {
    let fixture = Fixture::new();
    let (one, other) = (fixture.server(), fixture.server());
    let client = fixture.client().config();
    assert!(!visit(&one, &client).await);
    assert!(!visit(&other, &client).await);
}

#[tokio::test]
async fn tickets_can_be_off() {
    let mut fixture = Fixture::new();
    fixture.config.tickets.enabled = false;
    let server = fixture.server();
    for version in BOTH {
        let client = fixture.client().with_version(version).config();
        assert!(!visit(&server, &client).await);
        assert!(!visit(&server, &client).await);
    }
}
