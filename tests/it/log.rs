//! A standard error that cannot be written, or that nobody reads: lines are lost and counted, devices are served.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

use crate::harness::{Client, Server, Target, Transport, until};
use crate::process::get;

/// No first byte of a Control Packet.
const MALFORMED: [u8; 5] = [0xff; 5];

/// A server with one thread for devices, whose standard output and standard error are what `dir/log` is now.
fn start(dir: &Path, level: &str) -> Server {
    let extra = format!("worker_threads = 1\n[log]\nlevel = \"{level}\"\n");
    let mut server = Server::begin_in(dir, &extra);
    // It can be read as a log by nobody.
    fs::remove_file(dir.join("log")).unwrap();
    server.wait_until_up();
    server
}

fn send_malformed(server: &Server) {
    let mut client = target(server).v5();
    client.send(&MALFORMED);
    client.expect_dropped(0x81);
}

fn target(server: &Server) -> Target<'_> {
    Target { server, transport: Transport::Tcp }
}

fn has_room(pipe: &File) -> bool {
    poll(&mut [PollFd::new(pipe, PollFlags::OUT)], Some(&Timespec::default())).unwrap() > 0
}

fn expect_service(server: &Server) {
    target(server).v5().publish("log/lost", "x", 1);
    assert!(get(server, "/readyz").0.contains(" 200"));
}

fn lost_lines(server: &Server) -> f64 {
    let metrics = get(server, "/metrics").1;
    let value = metrics.lines().find_map(|line| line.strip_prefix("tidegate_log_lines_lost_total "));
    value.unwrap_or_else(|| panic!("no such metric in {metrics}")).parse().unwrap()
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let dir = TempDir::new().unwrap();
    symlink("/dev/full", dir.path().join("log")).unwrap();
    let server = start(dir.path(), "info");
    let before = lost_lines(&server);
    assert!(before > 0.0, "the lines of the start");
    send_malformed(&server);
    until(|| (lost_lines(&server) > before).then_some(()), || "the line about it is not counted".to_owned());
    expect_service(&server);
    server.signal("TERM");
    assert_eq!(server.wait_for_end(Duration::from_secs(15)), 0);
}

#[test]
fn a_log_that_nobody_reads_holds_up_nobody() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("log");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    // Opened for both, since opening one end would wait for the other.
    let reader = File::options().read(true).write(true).open(&path).unwrap();
    let server = start(dir.path(), "trace");
    let mut device = target(&server).v5();
    while has_room(&reader) {
        publish(&mut device);
    }
    send_malformed(&server);
    (0..100).for_each(|_| publish(&mut device));
    expect_service(&server);
    // Now there is no reader at all.
    drop(reader);
    send_malformed(&server);
    until(|| (lost_lines(&server) > 0.0).then_some(()), || "nothing is counted".to_owned());
    expect_service(&server);
    server.signal("TERM");
    assert_eq!(server.wait_for_end(Duration::from_secs(15)), 0);
}

fn publish(device: &mut Client) {
    device.publish("log/lost", "x", 1);
}
