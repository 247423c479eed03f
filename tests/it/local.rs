//! Who is on this machine, and where it is listened: names to bind, and load balancers in front.

use std::io::{Read, Write};
use std::net::SocketAddr;

use crate::harness::bytes::Connect;
use crate::harness::transport::tcp;
use crate::harness::{Server, Target, Transport, unique};

/// Anonymous clients may come from this machine, behind a load balancer on this machine.
const PROXIED: &str = "[listeners.proxied]\nbind = '127.0.0.1:0'\nkind = 'mqtt'\nproxy_protocol = 'v1v2'\n\
                       trusted = ['127.0.0.1']\n";

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, body].concat()
}

/// The Reason Code for an anonymous CONNECT behind this header.
fn answer(server: &Server, header: &[u8]) -> u8 {
    connect_at(server.address_of("proxied"), header)
}

fn connect_at(address: SocketAddr, header: &[u8]) -> u8 {
    let mut socket = tcp(address);
    socket.write_all(&[header, &Connect::v5(&unique("c")).bytes()].concat()).unwrap();
    let mut connack = [0; 4];
    socket.read_exact(&mut connack).unwrap();
    assert_eq!(connack[0], 0x20);
    connack[3]
}

#[test]
fn who_a_load_balancer_does_not_name_is_not_from_this_machine() {
    let server = Server::start(PROXIED);
    let from = |a: u8| [[a, 0, 0, 1], [127, 0, 0, 1]].concat();
    let with_ports = |addresses: Vec<u8>| [&addresses[..], &[0x10, 0, 0x07, 0x5b]].concat();
    let nameless = [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN ::1 ::1 1 2\r\n".to_vec(),
        v2(0x20, 0x00, &[]),
        v2(0x20, 0x11, &with_ports(from(127))),
        v2(0x21, 0x00, &[]),
        v2(0x21, 0x31, &[0; 216]),
        b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 1883\r\n".to_vec(),
        v2(0x21, 0x11, &with_ports(from(10))),
    ];
    for header in nameless {
        assert_eq!(answer(&server, &header), 0x87, "{:?}", String::from_utf8_lossy(&header));
    }
    assert_eq!(answer(&server, b"PROXY TCP4 127.0.0.1 127.0.0.1 4711 1883\r\n"), 0);
    assert_eq!(answer(&server, &v2(0x21, 0x11, &with_ports(from(127)))), 0);
}

#[test]
fn a_name_is_listened_on_at_all_its_addresses() {
    let server = Server::start("[listeners.named]\nbind = 'localhost:0'\nkind = 'mqtt'\n");
    let mut found = vec![server.address_of("named")];
    found.extend(server.find_address("named.2"));
    assert!(found.iter().any(SocketAddr::is_ipv4), "{found:?}");
    for address in found {
        assert!(address.ip().is_loopback() && address.port() != 0, "{address}");
        assert_eq!(connect_at(address, b""), 0, "{address}");
    }
}

#[test]
fn signals_that_mean_nothing_end_nothing() {
    let server = Server::start("");
    let mut client = Target { server: &server, transport: Transport::Tls }.v5();
    for signal in ["USR1", "USR2", "PIPE", "HUP", "USR1", "USR2"] {
        server.signal(signal);
        client.publish("a", signal, 1);
        assert!(server.is_alive(), "after SIG{signal}");
    }
    client.expect_alive();
}
