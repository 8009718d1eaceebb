//! Sources of pictures: folders, tar files, and tar files within either.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::tar_end;
use super::{Error, Result};
use crate::data::classes;
use crate::data::tfrecord::read_at;
use crate::files;
use crate::report::escape;

/// Maximum size of a picture's file: 128 MiB, the maximum record length.
pub(super) const MAX_PICTURE_BYTES: u64 = 1 << 27;
/// Signatures of compressed files: gzip, bzip2, xz, zstd.
const COMPRESSED: [&[u8]; 4] = [
    &[0x1f, 0x8b],
    b"BZh",
    &[0xfd, 0x37, 0x7a, 0x58, 0x5a],
    &[0x28, 0xb5, 0x2f, 0xfd],
];
/// Maximum bytes of headers before the data of a tar entry: 1 MiB. A long name takes kilobytes.
const MAX_ENTRY_HEADERS: u64 = 1 << 20;

/// A picture found in a source.
#[derive(Debug)]
pub(super) struct Found {
    /// File name, and the class if its folder or tar file names one.
    pub name: String,
    pub class: Option<String>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    File(PathBuf),
    /// In the archive with this index.
    Archived {
        archive: usize,
        offset: u64,
        bytes: u64,
    },
}

/// Files to read pictures from.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub found: Vec<Found>,
    /// Classes with their own folder or tar file, even without pictures.
    pub classes: BTreeSet<String>,
    archives: Vec<Archive>,
    /// Names of files that are not pictures.
    pub others: Vec<String>,
}

#[derive(Debug)]
struct Archive {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Source {
    /// Finds the pictures of a folder or a tar file.
    ///
    /// # Errors
    /// A path that cannot be read, a truncated tar file, a special file (such as a FIFO) with a picture's name, or no
    /// pictures.
    pub fn open(path: &Path) -> Result<Self> {
        let mut source = Source::default();
        match path.is_dir() {
            true => source.add_folder(path, None)?,
            false => source.add_tar(path, None)?,
        }
        if source.found.is_empty() {
            return Err(Error::NoPictures { path: path.into() });
        }
        source
            .found
            .sort_by(|a, b| (&a.class, &a.name).cmp(&(&b.class, &b.name)));
        Ok(source)
    }

    /// Scans the folder of a class or, without `class`, a folder of classes and unclassified pictures.
    fn add_folder(&mut self, path: &Path, class: Option<&str>) -> Result<()> {
        self.classes.extend(class.map(str::to_owned));
        for entry in fs::read_dir(path).map_err(Error::io(path))? {
            let path = entry.map_err(Error::io(path))?.path();
            let name = text(path.file_name().unwrap_or_default().as_ref());
            match (Sort::of(&name), class) {
                (Sort::Hidden, _) => {}
                _ if path.is_dir() && class.is_none() => {
                    let class = classes::written(path.file_name().unwrap_or_default());
                    self.add_folder(&path, Some(&class))?;
                }
                (Sort::Picture, _) if !path.is_dir() => {
                    let kind = fs::metadata(&path).map_err(Error::io(&path))?.file_type();
                    if !kind.is_file() {
                        let found = files::name(kind);
                        return Err(Error::Special { path, found });
                    }
                    self.found.push(Found {
                        name,
                        class: class.map(str::to_owned),
                        place: Place::File(path),
                    });
                }
                (Sort::Tar(class), None) => {
                    let class = classes::written(class.as_ref());
                    self.add_tar(&path, Some(&class))?;
                }
                _ => self.others.push(escape::path(&path)),
            }
        }
        Ok(())
    }

    fn add_tar(&mut self, path: &Path, class: Option<&str>) -> Result<()> {
        let file = files::open(path).map_err(Error::io(path))?;
        let bytes = file.metadata().map_err(Error::io(path))?.len();
        let mut start = [0; 5];
        if bytes >= 5
            && read_at(&file, &mut start, 0).is_ok()
            && COMPRESSED.iter().any(|magic| start.starts_with(magic))
        {
            return Err(Error::CompressedTar { path: path.into() });
        }
        let headers = Cell::new(0);
        let section = Section {
            file: &file,
            start: 0,
            bytes,
            at: 0,
            headers: &headers,
        };
        self.add_section(path, section, class)?;
        let path = path.into();
        self.archives.push(Archive { path, file, bytes });
        Ok(())
    }

    /// Scans a tar file, which is the next archive or lies in it. In a tar file of classes, a folder without an entry
    /// of its own next to one with pictures is a class too.
    fn add_section(&mut self, archive: &Path, section: Section, class: Option<&str>) -> Result<()> {
        self.classes.extend(class.map(str::to_owned));
        let damaged = |source| Error::Tar {
            path: archive.into(),
            source,
        };
        let (mut end, mut last) = (0, String::new());
        let (mut folders, mut full) = (BTreeSet::new(), BTreeSet::new());
        for entry in tar::Archive::new(section).entries_with_seek().map_err(damaged)? {
            let entry = entry.map_err(damaged)?;
            section.headers.set(0);
            let path = entry.path().map_err(damaged)?.into_owned();
            let name = text(path.file_name().unwrap_or_default().as_ref());
            let (offset, bytes, kind) = (entry.raw_file_position(), entry.size(), entry.header().entry_type());
            // The size in the header of a sparse file is that of the file, not of the data in the archive.
            let stored = if kind.is_gnu_sparse() {
                entry.header().entry_size().map_err(damaged)?
            } else {
                bytes
            };
            end = tar_end::after(offset, stored);
            last = escape::path(&path);
            full.extend(path.parent().map(Path::to_path_buf));
            if kind.is_dir() {
                folders.insert(path);
                continue;
            }
            let found = Entry {
                name: &name,
                path: &path,
                offset,
                bytes,
            };
            match kind.is_file() {
                true => self.add_entry(archive, section, class, found)?,
                false => self.others.push(last.clone()),
            }
        }
        tar_end::check(section.file, [section.start, section.bytes], end).map_err(|found| Error::CutTar {
            path: archive.into(),
            last,
            found,
        })?;
        let of_classes: BTreeSet<_> = full.iter().filter_map(|folder| folder.parent()).collect();
        let is_empty_class =
            |folder: &&PathBuf| !full.contains(*folder) && folder.parent().is_some_and(|p| of_classes.contains(p));
        if class.is_none() {
            let empty = folders.iter().filter(is_empty_class);
            self.classes
                .extend(empty.map(|folder| classes::written(folder.file_name().unwrap_or_default())));
        }
        Ok(())
    }

    /// Adds a file of a tar file.
    fn add_entry(&mut self, archive: &Path, section: Section, class: Option<&str>, entry: Entry) -> Result<()> {
        let Entry {
            name,
            path,
            offset,
            bytes,
        } = entry;
        match (Sort::of(name), class) {
            (Sort::Hidden, _) => {}
            (Sort::Picture, _) => {
                let folder = path.parent().and_then(Path::file_name).map(classes::written);
                let class = class.map(str::to_owned).or(folder);
                self.classes.extend(class.clone());
                self.found.push(Found {
                    class,
                    name: name.to_owned(),
                    place: Place::Archived {
                        archive: self.archives.len(),
                        offset: section.start + offset,
                        bytes,
                    },
                });
            }
            (Sort::Tar(class), None) => {
                let start = section.start + offset;
                let inner = Section {
                    start,
                    bytes: bytes.min(section.bytes.saturating_sub(offset)),
                    at: 0,
                    ..section
                };
                let class = classes::written(class.as_ref());
                self.add_section(&archive.join(path), inner, Some(&class))?;
            }
            _ => self.others.push(escape::path(&archive.join(path))),
        }
        Ok(())
    }

    /// Reads the encoded bytes of a picture.
    ///
    /// # Errors
    /// A file that cannot be read, is too long for a picture, or exceeds its archive.
    pub fn read(&self, found: &Found) -> Result<Vec<u8>> {
        match &found.place {
            Place::File(path) => files::read(path, MAX_PICTURE_BYTES).map_err(|source| match source.kind() {
                io::ErrorKind::InvalidData => Error::Picture {
                    name: self.name(found),
                    problem: source.to_string(),
                },
                _ => Error::io(path)(source),
            }),
            &Place::Archived { archive, offset, bytes } => {
                let archive = &self.archives[archive];
                let expected = archive.bytes.saturating_sub(offset).min(MAX_PICTURE_BYTES);
                if bytes > expected {
                    return Err(Error::Beyond {
                        name: self.name(found),
                        found: bytes,
                        expected,
                    });
                }
                let mut content = vec![0; bytes as usize];
                read_at(&archive.file, &mut content, offset).map_err(Error::io(&archive.path))?;
                Ok(content)
            }
        }
    }

    /// Encoded size of a picture in bytes, if known.
    pub fn bytes(&self, found: &Found) -> u64 {
        match &found.place {
            Place::File(path) => fs::metadata(path).map_or(0, |file| file.len()),
            Place::Archived { bytes, .. } => *bytes,
        }
    }

    /// Location of the picture, for messages.
    pub fn name(&self, found: &Found) -> String {
        match &found.place {
            Place::File(path) => escape::path(path),
            Place::Archived { archive, .. } => {
                let class = found.class.as_ref().map_or(String::new(), |class| format!("{class}/"));
                let name = escape::name(&found.name);
                format!("{}: {class}{name}", escape::path(&self.archives[*archive].path))
            }
        }
    }
}

/// Kind of a file by its name.
enum Sort<'a> {
    /// A hidden file.
    Hidden,
    Picture,
    /// A tar file of pictures of the class that it is named after.
    Tar(&'a str),
    Other,
}

impl<'a> Sort<'a> {
    fn of(name: &'a str) -> Self {
        let Some((stem, extension)) = name.rsplit_once('.') else {
            return Sort::Other;
        };
        match extension.to_ascii_lowercase().as_str() {
            _ if name.starts_with('.') => Sort::Hidden,
            "jpeg" | "jpg" | "png" => Sort::Picture,
            "tar" => Sort::Tar(stem),
            _ => Sort::Other,
        }
    }
}

fn text(name: &Path) -> String {
    name.to_string_lossy().into_owned()
}

/// A byte range of a file, as a reader.
#[derive(Clone, Copy)]
struct Section<'a> {
    file: &'a File,
    start: u64,
    bytes: u64,
    at: u64,
    /// Header bytes read since the last entry; data is skipped.
    headers: &'a Cell<u64>,
}

/// A file in a tar file.
struct Entry<'a> {
    name: &'a str,
    path: &'a Path,
    offset: u64,
    bytes: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.bytes.saturating_sub(self.at);
        let length = out.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.headers.set(self.headers.get() + length as u64);
        if self.headers.get() > MAX_ENTRY_HEADERS {
            let message = format!("an entry's headers have more than {MAX_ENTRY_HEADERS} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        read_at(self.file, &mut out[..length], self.start + self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

impl Seek for Section<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.bytes.checked_add_signed(by),
        };
        self.at = to.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
