//! Files and directories that hold payloads, keys or password hashes: readable by the user that Tidegate runs as, whatever
//! the umask, and replaced as a whole.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Who may read a file that is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Its owner.
    Owner,
    /// Everybody: it holds nothing secret.
    Everybody,
    /// As of the file that is replaced, whose owner stays too; its owner if there is none.
    Kept,
}

/// Makes a directory, with those above it that are missing, for its owner only. One that is there stays as it is.
///
/// # Errors
/// What the system says.
pub fn make_dir(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Takes a directory and everything below it from other users, as far as it is this user's. Answers how many files and
/// directories they could get at; symbolic links are not followed.
///
/// # Errors
/// The first that could not be changed; the rest was changed.
pub fn tighten(path: &Path) -> io::Result<usize> {
    let mut changed = 0;
    let mut failed = None;
    let mut left = vec![path.to_owned()];
    while let Some(path) = left.pop() {
        match tighten_one(&path, &mut left) {
            Ok(was_open) => changed += usize::from(was_open),
            // Gone meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(changed), Err)
}

#[cfg(unix)]
fn tighten_one(path: &Path, left: &mut Vec<PathBuf>) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt as _;
    const OTHERS: u32 = 0o077;
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return Ok(false);
    }
    let mode = metadata.permissions().mode();
    let is_open = mode & OTHERS != 0;
    if is_open {
        fs::set_permissions(path, fs::Permissions::from_mode(mode & !OTHERS))?;
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            left.push(entry?.path());
        }
    }
    Ok(is_open)
}

#[cfg(not(unix))]
fn tighten_one(_path: &Path, _left: &mut Vec<PathBuf>) -> io::Result<bool> {
    Ok(false)
}

/// Replaces `path`, or the file to which it is a symbolic link, by what `write` writes, whole or not at all: nobody sees half of it,
/// and it is on disk when this returns.
///
/// # Errors
/// What the system, or `write`, says. The file is then what it was.
pub fn replace(
    path: &Path,
    readers: Readers,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    // One that is not there yet is no link.
    let path = &*fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let next = path.with_file_name(name);
    // Process ids come again, in a container with every start: what an earlier one left must not be in the way.
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = write_next(path, &next, readers, write).and_then(|()| fs::rename(&next, path));
    if written.is_err() {
        // The failure that matters is the one being returned.
        let _ = fs::remove_file(&next);
    }
    written?;
    sync_folder(path)
}

/// Keeps everybody else who asks for it from changing `path` until what is answered is dropped; waits for those who do. It holds
/// for the folder, since the file itself is replaced.
///
/// # Errors
/// What the system says. Where it knows no locks nobody waits.
pub fn lock(path: &Path) -> io::Result<File> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = open_folder(&path)?;
    match folder.lock() {
        Err(error) if error.kind() != io::ErrorKind::Unsupported => Err(error),
        _ => Ok(folder),
    }
}

fn write_next(
    path: &Path,
    next: &Path,
    readers: Readers,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create_new(true);
    // From its first byte on.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(next)?;
    write(&mut file)?;
    match readers {
        Readers::Owner => {}
        Readers::Everybody => open_to_all(&file)?,
        Readers::Kept => {
            if let Ok(old) = fs::metadata(path) {
                keep_owner(&file, &old)?;
                file.set_permissions(old.permissions())?;
            }
        }
    }
    file.sync_all()
}

#[cfg(unix)]
fn open_to_all(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn open_to_all(_file: &File) -> io::Result<()> {
    Ok(())
}

/// A file that a broker under another user reads stays readable for it.
#[cfg(unix)]
fn keep_owner(file: &File, old: &fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, fchown};
    let new = file.metadata()?;
    let is_same = (new.uid(), new.gid()) == (old.uid(), old.gid());
    if is_same { Ok(()) } else { fchown(file, Some(old.uid()), Some(old.gid())) }
}

#[cfg(not(unix))]
fn keep_owner(_file: &File, _old: &fs::Metadata) -> io::Result<()> {
    Ok(())
}

/// The name is on disk too.
fn sync_folder(path: &Path) -> io::Result<()> {
    open_folder(path)?.sync_all()
}

fn open_folder(path: &Path) -> io::Result<File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_directory_and_those_above_it_are_made_for_their_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data/state");
        make_dir(&path).unwrap();
        assert_eq!((mode(&path), mode(&dir.path().join("data"))), (0o700, 0o700));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        make_dir(&path).unwrap();
        assert_eq!(mode(&path), 0o750, "one that is there stays");
    }

    #[test]
    fn what_others_could_read_is_taken_from_them() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        fs::create_dir_all(state.join("db")).unwrap();
        fs::write(state.join("db/0.jnl"), "payload").unwrap();
        fs::write(dir.path().join("outside"), "").unwrap();
        std::os::unix::fs::symlink(dir.path().join("outside"), state.join("link")).unwrap();
        for path in [state.join("db/0.jnl"), dir.path().join("outside")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        }
        for path in [&state, &state.join("db")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        assert_eq!(tighten(&state).unwrap(), 3);
        let modes = ["", "db", "db/0.jnl"].map(|name| mode(&state.join(name)));
        assert_eq!(modes, [0o700, 0o700, 0o600]);
        assert_eq!(mode(&dir.path().join("outside")), 0o644, "links are not followed");
        assert_eq!(tighten(&state).unwrap(), 0);
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let put =
            |readers, text: &'static str| replace(&path, readers, |file| file.write_all(text.as_bytes()));
        put(Readers::Owner, "one").unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("one", 0o600));
        put(Readers::Everybody, "two").unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("two", 0o644));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        put(Readers::Kept, "three").unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("three", 0o640));
        let failed = replace(&path, Readers::Kept, |file| {
            file.write_all(b"half of")?;
            Err(io::Error::other("no more"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "three");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_is_replaced_behind_a_symbolic_link() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "one").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        replace(&link, Readers::Kept, |file| file.write_all(b"two")).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "two");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn a_file_that_one_has_locked_nobody_else_locks() {
        let dir = tempfile::tempdir().unwrap();
        let first = lock(&dir.path().join("file")).unwrap();
        let second = File::open(dir.path()).unwrap();
        assert!(matches!(second.try_lock(), Err(fs::TryLockError::WouldBlock)));
        drop(first);
        second.try_lock().unwrap();
    }
}
