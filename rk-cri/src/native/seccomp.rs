//! Which system calls a container may make: from a profile to a program in the kernel.
//!
//! A program is made when the container is (so that what is wrong with a profile is known then), is
//! kept beside the container, and is put into force by the container's first process and by each
//! command that enters it.
//!
//! # When it is put into force
//! The kernel takes a program from a process that has `CAP_SYS_ADMIN`, or that gave up to ever gain
//! privileges (`no_new_privs`). A process that gave up takes it last. One that did not takes it with
//! this capability and gives the capability up right after, so that a profile has to let `capset`
//! pass then, as other runtimes want it too.

mod bpf;
mod default_profile;
mod profile;
mod syscalls;

use std::{fs, io, path::Path};

use libcontainer::oci_spec::runtime::Process;
use serde::{Deserialize, Serialize};

use self::{bpf::Instruction, profile::Profile};
use super::spec::capability_bits;
use crate::runtime::Seccomp;

/// The file of a container that has its program.
pub(super) const FILE: &str = "seccomp.json";

/// A program for the kernel, and how it is to take it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Filter {
    flags: u64,
    program: Vec<Instruction>,
}

// The operation of seccomp(2), and its flags.
const SET_MODE_FILTER: libc::c_uint = 1;
const FLAG_LOG: u64 = 2;
const FLAG_SPEC_ALLOW: u64 = 4;

impl Filter {
    /// The program that a container with these capabilities asks for; `None` where all calls pass.
    /// An error says what is wrong with the profile.
    pub(super) fn of(seccomp: &Seccomp, capabilities: &[String]) -> Result<Option<Self>, String> {
        match seccomp {
            Seccomp::Unconfined => Ok(None),
            Seccomp::RuntimeDefault => {
                let rules = default_profile::rules(capabilities);
                let program = bpf::program(&rules, default_profile::DEFAULT);
                Ok(Some(Self { flags: FLAG_SPEC_ALLOW, program }))
            }
            Seccomp::Localhost(path) => {
                let name = path.display();
                let text = fs::read(path).map_err(|error| {
                    let why = words(&error);
                    format!("cannot load seccomp profile \"{name}\": open {name}: {why}")
                })?;
                let profile: Profile = serde_json::from_slice(&text).map_err(|error| {
                    format!("decoding seccomp profile failed \"{name}\": {error}")
                })?;
                let filter = Self::of_profile(&profile, capabilities);
                filter
                    .map(Some)
                    .map_err(|why| format!("cannot load seccomp profile \"{name}\": {why}"))
            }
        }
    }

    fn of_profile(profile: &Profile, capabilities: &[String]) -> Result<Self, String> {
        let program = bpf::program(&profile.rules(capabilities)?, profile.default_action()?);
        if program.len() > bpf::INSTRUCTIONS_MAX {
            return Err(format!(
                "it needs {} instructions, the kernel takes {}",
                program.len(),
                bpf::INSTRUCTIONS_MAX
            ));
        }
        // Speculation is held back only where a profile says something of flags, as runc has it.
        let mut flags = if profile.flags.is_none() { FLAG_SPEC_ALLOW } else { 0 };
        for flag in profile.flags.iter().flatten() {
            flags |= match flag.as_str() {
                "SECCOMP_FILTER_FLAG_LOG" => FLAG_LOG,
                "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => FLAG_SPEC_ALLOW,
                // There is one thread.
                "SECCOMP_FILTER_FLAG_TSYNC" => 0,
                other => return Err(format!("unknown flag {other:?}")),
            };
        }
        Ok(Self { flags, program })
    }

    /// Reads the program of the container in this directory; `None` where all calls pass.
    pub(super) fn read(directory: &Path) -> io::Result<Option<Self>> {
        super::disk::read(&directory.join(FILE))
    }

    fn load(&self) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: self.program.len() as libc::c_ushort,
            filter: self.program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
        };
        // SAFETY: an Instruction is laid out as a sock_filter, the program is as long as said and
        // lives until the call returns, and the kernel only reads it.
        let result = unsafe {
            libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, self.flags, &raw const program)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// The last step of a process before it executes a container's program: puts the program of the
/// kernel into force, and keeps the capabilities that the configuration bounds it by. The process has
/// `CAP_SYS_ADMIN`, or no new privileges. Without a program nothing is left to do.
pub(super) fn confine(filter: Option<&Filter>, process: &Process) -> io::Result<()> {
    let Some(filter) = filter else { return Ok(()) };
    let bounding = process.capabilities().as_ref().and_then(|sets| sets.bounding().as_ref());
    let kept: Vec<String> = bounding.into_iter().flatten().map(ToString::to_string).collect();
    let no_new_privileges = process.no_new_privileges() == Some(true);
    let because = |what: &'static str| {
        move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {}", words(&error)))
    };
    let load = || filter.load().map_err(because("unable to init seccomp"));
    if !no_new_privileges {
        load()?;
    }
    keep_capabilities(capability_bits(&kept)).map_err(because("unable to apply caps"))?;
    if no_new_privileges {
        load()?;
    }
    Ok(())
}

/// Sets the effective and permitted capabilities to these bits, and leaves none to inherit.
fn keep_capabilities(bits: u64) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    // _LINUX_CAPABILITY_VERSION_3: two halves.
    let header = Header { version: 0x2008_0522, pid: 0 };
    let half = |bits: u32| Data { effective: bits, permitted: bits, inheritable: 0 };
    let data = [half(bits as u32), half((bits >> 32) as u32)];
    // SAFETY: both structures are those of version 3 and live until the call returns.
    match unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An error without Rust's `(os error 2)`, as other runtimes word it.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn localhost(text: &str) -> Result<Option<Filter>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("profile.json");
        fs::write(&path, text).unwrap();
        Filter::of(&Seccomp::Localhost(path), &[])
    }

    #[test]
    fn a_profile_that_is_missing_or_broken_is_named() {
        let missing = Filter::of(&Seccomp::Localhost("/no/such.json".into()), &[]).unwrap_err();
        assert_eq!(
            missing,
            "cannot load seccomp profile \"/no/such.json\": open /no/such.json: no such file or \
             directory"
        );
        assert!(localhost("{").unwrap_err().starts_with("decoding seccomp profile failed \"/"));
        let unknown = localhost(r#"{"defaultAction": "SCMP_ACT_NONE"}"#).unwrap_err();
        assert!(unknown.ends_with("unknown action \"SCMP_ACT_NONE\""), "{unknown}");
    }

    #[test]
    fn flags_say_how_the_kernel_takes_it() {
        let flags = |more: &str| {
            let text = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW"{more}}}"#);
            localhost(&text).map(|filter| filter.unwrap().flags)
        };
        assert_eq!(flags(""), Ok(FLAG_SPEC_ALLOW));
        assert_eq!(flags(r#", "flags": []"#), Ok(0));
        assert_eq!(flags(r#", "flags": ["SECCOMP_FILTER_FLAG_LOG"]"#), Ok(FLAG_LOG));
        assert!(flags(r#", "flags": ["FLAG"]"#).is_err());
    }

    #[test]
    fn the_own_profile_is_one_that_the_kernel_takes_with_any_capabilities() {
        for capabilities in [vec![], vec!["CAP_SYS_ADMIN".to_owned()]] {
            let filter = Filter::of(&Seccomp::RuntimeDefault, &capabilities).unwrap().unwrap();
            assert!(filter.program.len() < bpf::INSTRUCTIONS_MAX, "{}", filter.program.len());
        }
        assert_eq!(Filter::of(&Seccomp::Unconfined, &[]), Ok(None));
    }
}
