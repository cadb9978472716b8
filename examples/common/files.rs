//! Files that flags name: an error says which flag, and which file.

use std::{fs, net::IpAddr, path::PathBuf};

use rk::api::server::Identity;

use crate::flags::Given;

/// A file, and the flag that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) flag: &'static str,
    pub(crate) path: PathBuf,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) certificate: File,
    pub(crate) key: File,
}

/// The file that a flag names, if it does.
pub(crate) fn file(given: &Given, flag: &'static str) -> Option<File> {
    given.text(flag).map(|path| File { flag, path: path.into() })
}

/// Two files of which neither is of use without the other.
pub(crate) fn pair(
    given: &Given,
    certificate: &'static str,
    key: &'static str,
) -> Result<Option<Pair>, String> {
    match (file(given, certificate), file(given, key)) {
        (Some(certificate), Some(key)) => Ok(Some(Pair { certificate, key })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(format!("--{certificate} needs --{key}")),
        (None, Some(_)) => Err(format!("--{key} needs --{certificate}")),
    }
}

/// An IP address.
pub(crate) fn address(given: &Given, flag: &str) -> Result<Option<IpAddr>, String> {
    let Some(text) = given.text(flag) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| format!("--{flag}={text} is no IP address"))
}

/// The text of a file; the error names the flag and the file.
pub(crate) fn read(file: &File) -> Result<String, String> {
    fs::read_to_string(&file.path)
        .map_err(|error| format!("--{}={}: {error}", file.flag, file.path.display()))
}

pub(crate) fn read_pair(pair: &Pair) -> Result<Identity, String> {
    Ok(Identity { certificate_pem: read(&pair.certificate)?, key_pem: read(&pair.key)? })
}

/// What is wrong with a file, in the words of whoever reads it.
pub(crate) fn wrong(file: &File, error: &dyn std::fmt::Display) -> String {
    format!("--{}={}: {error}", file.flag, file.path.display())
}
