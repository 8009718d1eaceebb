//! Where pictures are: folders, tar files, tar files in either.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::{Error, Result};
use crate::data::classes;
use crate::data::tfrecord::read_at;

/// Bound on a picture's file.
const MAX_PICTURE_BYTES: u64 = 1 << 28;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A picture that was found.
#[derive(Debug)]
pub(super) struct Found {
    /// Name of its file, and of its class where the folder or tar file it is in tells that.
    pub name: String,
    pub class: Option<String>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    File(PathBuf),
    /// In the archive of this number.
    Archived {
        archive: usize,
        offset: u64,
        bytes: u64,
    },
}

/// Files to read pictures from.
#[derive(Debug)]
pub(super) struct Source {
    pub found: Vec<Found>,
    archives: Vec<Archive>,
    /// Files that are no pictures by their names.
    pub others: usize,
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
    /// What cannot be read, or has no pictures.
    pub fn open(path: &Path) -> Result<Self> {
        let mut source = Source {
            found: vec![],
            archives: vec![],
            others: 0,
        };
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

    /// The folder of a class, or if there is none, one of classes and pictures without.
    fn add_folder(&mut self, path: &Path, class: Option<&str>) -> Result<()> {
        for entry in fs::read_dir(path).map_err(Error::io(path))? {
            let path = entry.map_err(Error::io(path))?.path();
            let name = text(path.file_name().unwrap_or_default().as_ref());
            match (Sort::of(&name), class) {
                (Sort::Hidden, _) => {}
                _ if path.is_dir() => match class {
                    None => self.add_folder(&path, Some(&classes::written(path.file_name().unwrap_or_default())))?,
                    Some(_) => self.others += 1,
                },
                (Sort::Picture, _) => self.found.push(Found {
                    name,
                    class: class.map(str::to_owned),
                    place: Place::File(path),
                }),
                (Sort::Tar(class), None) => self.add_tar(&path, Some(class))?,
                _ => self.others += 1,
            }
        }
        Ok(())
    }

    fn add_tar(&mut self, path: &Path, class: Option<&str>) -> Result<()> {
        let file = File::open(path).map_err(Error::io(path))?;
        let bytes = file.metadata().map_err(Error::io(path))?.len();
        let mut start = [0; 2];
        if bytes >= 2 && read_at(&file, &mut start, 0).is_ok() && start == GZIP_MAGIC {
            return Err(Error::CompressedTar { path: path.into() });
        }
        let section = Section {
            file: &file,
            start: 0,
            bytes,
            at: 0,
        };
        self.add_section(section, class).map_err(Error::io(path))?;
        let path = path.into();
        self.archives.push(Archive { path, file, bytes });
        Ok(())
    }

    /// The pictures of a tar file that is, or lies in, the archive that comes next.
    fn add_section(&mut self, section: Section, class: Option<&str>) -> io::Result<()> {
        for entry in tar::Archive::new(section).entries_with_seek()? {
            let entry = entry?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let path = entry.path()?;
            let name = text(path.file_name().unwrap_or_default().as_ref());
            let (offset, bytes) = (entry.raw_file_position(), entry.size());
            match (Sort::of(&name), class) {
                (Sort::Hidden, _) => {}
                (Sort::Picture, _) => {
                    let folder = path.parent().and_then(Path::file_name).map(|name| text(name.as_ref()));
                    self.found.push(Found {
                        class: class.map(str::to_owned).or(folder),
                        name,
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
                    self.add_section(inner, Some(class))?;
                }
                _ => self.others += 1,
            }
        }
        Ok(())
    }

    /// The bytes of a picture's file.
    ///
    /// # Errors
    /// What cannot be read, or is longer than a picture or than the archive it should be in.
    pub fn read(&self, found: &Found) -> Result<Vec<u8>> {
        match &found.place {
            Place::File(path) => {
                let mut bytes = vec![];
                let file = File::open(path).map_err(Error::io(path))?;
                file.take(MAX_PICTURE_BYTES)
                    .read_to_end(&mut bytes)
                    .map_err(Error::io(path))?;
                Ok(bytes)
            }
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

    /// Which picture it is, for messages.
    pub fn name(&self, found: &Found) -> String {
        match &found.place {
            Place::File(path) => path.display().to_string(),
            Place::Archived { archive, .. } => {
                let class = found.class.as_ref().map_or(String::new(), |class| format!("{class}/"));
                format!("{}: {class}{}", self.archives[*archive].path.display(), found.name)
            }
        }
    }
}

/// What a file is by its name.
enum Sort<'a> {
    /// Not meant to be seen.
    Hidden,
    Picture,
    /// Pictures of the class that it is called by.
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

/// Part of a file, as a file.
#[derive(Clone, Copy)]
struct Section<'a> {
    file: &'a File,
    start: u64,
    bytes: u64,
    at: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.bytes.saturating_sub(self.at);
        let length = out.len().min(usize::try_from(left).unwrap_or(usize::MAX));
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
