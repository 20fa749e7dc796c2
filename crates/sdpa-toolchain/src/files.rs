//! Files that are written whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{Result, Write as _};
use std::path::{Path, PathBuf};

/// A file that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct WriteError {
    /// Which file.
    pub path: PathBuf,
    /// The system's words.
    pub source: std::io::Error,
}

/// Replaces a file by these bytes. A reader sees the old file or the new one, never a part.
///
/// The file that a link leads to is replaced, not the link, and keeps its permissions and owner. What is no file, a device or
/// a pipe, is written to.
///
/// # Errors
/// [`WriteError`].
pub fn write_whole(path: &Path, bytes: &[u8]) -> std::result::Result<(), WriteError> {
    let written = || match Target::of(path)? {
        Target::Through => OpenOptions::new().write(true).open(path)?.write_all(bytes),
        Target::File(path) => replace(&path, bytes),
    };
    written().map_err(|source| WriteError { path: path.to_owned(), source })
}

/// Whether [`write_whole`] could write here, as far as can be told without writing: to be asked before long work.
///
/// # Errors
/// [`WriteError`], as it would be.
pub fn check_writable(path: &Path) -> std::result::Result<(), WriteError> {
    let checked = || match Target::of(path)? {
        // Opening a pipe would wait for its reader, or end it.
        Target::Through if is_pipe(path) => Ok(()),
        Target::Through => OpenOptions::new().write(true).open(path).map(drop),
        Target::File(path) => {
            // Renaming another file over it needs no permission of its own, but it was given for a reason.
            if path.exists() {
                OpenOptions::new().append(true).open(&path)?;
            }
            tempfile::NamedTempFile::new_in(folder_of(&path)).map(drop)
        }
    };
    checked().map_err(|source| WriteError { path: path.to_owned(), source })
}

/// Where bytes for a path go.
enum Target {
    /// Into the device, pipe or open file that the path names.
    Through,
    /// Over this file, which may not be there yet.
    File(PathBuf),
}

impl Target {
    fn of(path: &Path) -> Result<Self> {
        // `/dev/stdout` may lead to a file that the shell has opened: a new one in its place would be another file.
        let is_special = |path: &Path| path.starts_with("/dev") || path.starts_with("/proc");
        let end = end_of_links(path)?;
        match std::fs::metadata(path) {
            Ok(found) if !found.is_file() || is_special(path) || is_special(&end) => Ok(Self::Through),
            _ => Ok(Self::File(end)),
        }
    }
}

/// The path that links lead to, whether there is a file or not.
fn end_of_links(path: &Path) -> Result<PathBuf> {
    /// As many as Linux follows.
    const MOST: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..MOST {
        match std::fs::read_link(&path) {
            // A path from the root stays one when it is joined.
            Ok(next) => path = folder_of(&path).join(next),
            Err(_) => return Ok(path),
        }
    }
    Err(std::io::Error::other("too many links, or links in a circle"))
}

/// The folder a path names a file in; a bare name is in the current one, whose path is not empty.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut builder = tempfile::Builder::new();
    // A temporary file is private to its maker; the file that it becomes is for whom the system says.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder_of(path))?;
    file.write_all(bytes)?;
    if let Ok(old) = std::fs::metadata(path) {
        keep_owner(file.as_file(), &old);
        file.as_file().set_permissions(old.permissions())?;
    }
    file.persist(path)?;
    Ok(())
}

/// As far as the system lets this user give files away.
#[cfg(unix)]
fn keep_owner(file: &File, old: &std::fs::Metadata) {
    use std::os::unix::fs::{MetadataExt as _, fchown};
    let _ = fchown(file, Some(old.uid()), Some(old.gid()));
}

#[cfg(not(unix))]
fn keep_owner(_: &File, _: &std::fs::Metadata) {}

#[cfg(unix)]
fn is_pipe(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

#[cfg(not(unix))]
fn is_pipe(_: &Path) -> bool {
    false
}

#[cfg(all(test, unix))]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::process::Command;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_file_keeps_its_permissions_and_a_new_one_gets_the_usual_ones() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new, usual) = (folder.path().join("old"), folder.path().join("new"), folder.path().join("usual"));
        std::fs::write(&old, "old").unwrap();
        std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&usual, "").unwrap();
        for path in [&old, &new] {
            check_writable(path).unwrap();
            write_whole(path, b"new").unwrap();
            assert_eq!(std::fs::read(path).unwrap(), b"new");
        }
        assert_eq!((mode(&old), mode(&new)), (0o600, mode(&usual)));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "nothing is left behind");
    }

    #[test]
    fn links_stay_links() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("inner")).unwrap();
        std::fs::write(path("inner/file"), "old").unwrap();
        symlink("inner/file", path("link")).unwrap();
        symlink("link", path("second")).unwrap();
        symlink("inner/absent", path("dangling")).unwrap();
        for (link, file) in [("second", "inner/file"), ("dangling", "inner/absent")] {
            check_writable(&path(link)).unwrap();
            write_whole(&path(link), b"new").unwrap();
            assert!(path(link).is_symlink(), "{link}");
            assert_eq!(std::fs::read(path(file)).unwrap(), b"new");
        }
        symlink("circle", path("circle")).unwrap();
        assert!(check_writable(&path("circle")).is_err() && write_whole(&path("circle"), b"").is_err());
    }

    #[test]
    fn devices_and_pipes_are_written_to() {
        let folder = tempfile::tempdir().unwrap();
        // Through a link, so that a mistake here costs the link and not the device.
        let link = folder.path().join("null");
        symlink("/dev/null", &link).unwrap();
        let before = std::fs::metadata(&link).unwrap();
        check_writable(&link).unwrap();
        write_whole(&link, b"bytes").unwrap();
        let after = std::fs::metadata(&link).unwrap();
        assert!(link.is_symlink() && !after.is_file());
        assert_eq!((before.ino(), before.dev()), (after.ino(), after.dev()));

        let pipe = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        check_writable(&pipe).unwrap();
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || {
                let mut text = String::new();
                File::open(pipe).unwrap().read_to_string(&mut text).map(|_| text).unwrap()
            }
        });
        write_whole(&pipe, b"bytes").unwrap();
        assert_eq!(reader.join().unwrap(), "bytes");
    }

    #[test]
    fn what_cannot_be_written_is_told_before() {
        let folder = tempfile::tempdir().unwrap();
        let nowhere = folder.path().join("no/file");
        let said = check_writable(&nowhere).unwrap_err().to_string();
        assert!(said.starts_with(&nowhere.display().to_string()), "{said}");
        assert!(write_whole(&nowhere, b"").is_err());
        assert!(check_writable(folder.path()).is_err());
        // A full device is found by writing alone.
        check_writable(Path::new("/dev/full")).unwrap();
        assert!(write_whole(Path::new("/dev/full"), b"bytes").is_err());
    }
}
