//! A process of the binary under test that outlives neither its handle nor the test: a shell holds its process id and ends it
//! when the shell's input closes. The shell also writes down how the process ended.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Starts the rest of its arguments with as many open files as the second says, tells the process id, waits for the end and
/// writes the exit code to the first argument.
/// The guard is ended before the id can be given to another process.
const WATCHDOG: &str = r#"code=$1; files=$2; shift 2
exec 3<&0
([ -z "$files" ] || ulimit -n $files; exec "$@") </dev/null >&2 3<&- & pid=$!
echo $pid
exec >/dev/null
(cat <&3; kill -9 $pid) 2>/dev/null & guard=$!
exec 3<&-
wait $pid
echo $? >"$code"
kill $guard 2>/dev/null"#;

/// A running process, or what is left of it.
pub(crate) struct Process {
    watchdog: Child,
    pid: u32,
    dir: PathBuf,
}

impl Process {
    /// Starts the binary with these arguments, these variables beside those of the test, and a limit of open files if there is
    /// to be one; what it writes is appended to `dir/log`.
    pub(crate) fn start(
        dir: &Path,
        files: Option<u32>,
        arguments: &[&OsStr],
        env: &[(&str, OsString)],
    ) -> Process {
        let log = fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
        let code = dir.join("code");
        let _ = fs::remove_file(&code);
        let mut watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "sh"])
            .arg(&code)
            .arg(files.map_or_else(String::new, |files| files.to_string()))
            .arg(env!("CARGO_BIN_EXE_tidegate"))
            .args(arguments)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("start the process");
        let mut line = String::new();
        BufReader::new(watchdog.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = line.trim().parse().expect("its process id");
        Process { watchdog, pid, dir: dir.to_path_buf() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it still runs (a zombie does not).
    pub(crate) fn is_alive(&self) -> bool {
        self.exit_code().is_none()
            && fs::read_to_string(format!("/proc/{}/stat", self.pid))
                .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
    }

    /// How it ended, as a shell tells it (128 and more: by a signal); `None` while it runs.
    pub(crate) fn exit_code(&self) -> Option<i32> {
        fs::read_to_string(self.dir.join("code")).ok()?.trim().parse().ok()
    }

    /// Sends a signal by name, such as `TERM`. After `STOP` no thread of it runs any more.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.pid.to_string()).status().unwrap();
        assert!(sent.success(), "kill -{name} {}", self.pid);
        if name == "STOP" {
            super::until(|| self.is_stopped().then_some(()), || "its threads go on".to_owned());
        }
    }

    fn is_stopped(&self) -> bool {
        let state = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).ok()?;
            stat.rsplit_once(") ")?.1.chars().next()
        };
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap();
        tasks.map_while(Result::ok).all(|task| state(task).is_none_or(|state| state == 'T'))
    }

    /// Waits until it has ended and answers how.
    pub(crate) fn wait_for_end(&self, within: Duration) -> i32 {
        let deadline = Instant::now() + within;
        loop {
            if let Some(code) = self.exit_code() {
                return code;
            }
            assert!(Instant::now() < deadline, "the process still runs after {within:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What it wrote.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
        super::secret::look_through(&self.dir.join("log"));
    }
}
