//! Who a container runs as: the image's accounts files, read inside its root.

use std::{
    fs::File,
    io::Read,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use super::sys;
use crate::runtime::Security;

/// The largest accounts file that is read.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// A resolved user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Further groups, without the primary one.
    pub(super) groups: Vec<u32>,
    pub(super) home: PathBuf,
}

/// The accounts of an image.
#[derive(Clone, Debug, Default)]
pub(super) struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// Reads them below `root`. Missing files are empty.
    pub(super) fn read(root: &OwnedFd) -> Self {
        let read = |path: &str| {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK;
            let Ok(file) = sys::open_in_root(root, Path::new(path), flags) else {
                return String::new();
            };
            let file = File::from(file);
            if !file.metadata().is_ok_and(|meta| meta.is_file()) {
                return String::new();
            }
            let mut bytes = Vec::new();
            let _ = file.take(FILE_BYTES_MAX).read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Self { passwd: read("/etc/passwd"), group: read("/etc/group") }
    }

    /// Finds whom `security` and the image's `user` (`name`, `id`, either with `:group`) mean.
    pub(super) fn resolve(&self, security: &Security, image_user: &str) -> Result<User, String> {
        let (user, group) = match (security.run_as_user, &security.run_as_username) {
            (Some(uid), _) => (uid.to_string(), String::new()),
            (None, Some(name)) if !name.is_empty() => (name.clone(), String::new()),
            _ => match image_user.split_once(':') {
                Some((user, group)) => (user.to_owned(), group.to_owned()),
                None => (image_user.to_owned(), String::new()),
            },
        };
        let account = self.account(&user);
        let uid = match (&account, user.as_str()) {
            (Some(account), _) => account.uid,
            (None, "") => 0,
            (None, user) => user.parse().map_err(|_| {
                format!("unable to find user {user}: no matching entries in passwd file")
            })?,
        };
        let gid = if let Some(gid) = security.run_as_group {
            u32::try_from(gid).map_err(|_| format!("invalid group id {gid}"))?
        } else if group.is_empty() {
            account.as_ref().map_or(0, |account| account.gid)
        } else {
            self.gid(&group).ok_or_else(|| {
                format!("unable to find group {group}: no matching entries in group file")
            })?
        };
        let mut groups = Vec::new();
        if let Some(account) = &account
            && group.is_empty()
            && !security.strict_groups
        {
            groups = self.groups_of(&account.name);
        }
        for gid in &security.supplemental_groups {
            groups.push(u32::try_from(*gid).map_err(|_| format!("invalid group id {gid}"))?);
        }
        groups.sort_unstable();
        groups.dedup();
        groups.retain(|other| *other != gid);
        let home = account.map(|account| account.home).filter(|home| !home.is_empty());
        let home = home.unwrap_or(if uid == 0 { "/root".to_owned() } else { "/".to_owned() });
        Ok(User { uid, gid, groups, home: home.into() })
    }

    fn account(&self, user: &str) -> Option<Account> {
        let wanted = if user.is_empty() { "0" } else { user };
        let id = wanted.parse::<u32>().ok();
        let mut accounts = self.passwd.lines().filter_map(Account::parse);
        accounts.find(|account| account.name == wanted || Some(account.uid) == id)
    }

    fn gid(&self, group: &str) -> Option<u32> {
        let named = self.group.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let gid = fields.nth(1)?.parse().ok()?;
            (name == group).then_some(gid)
        });
        named.or_else(|| group.parse().ok())
    }

    fn groups_of(&self, user: &str) -> Vec<u32> {
        self.group
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(':').skip(2);
                let gid = fields.next()?.parse().ok()?;
                fields.next()?.split(',').any(|member| member == user).then_some(gid)
            })
            .collect()
    }
}

struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

impl Account {
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split(':').collect();
        Some(Self {
            name: fields.first()?.to_string(),
            uid: fields.get(2)?.parse().ok()?,
            gid: fields.get(3)?.parse().ok()?,
            home: fields.get(5).unwrap_or(&"").to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:\nbroken\n".to_owned(),
            group: "root:x:0:\nweb:x:34:\nlogs:x:50:web,root\n".to_owned(),
        }
    }

    #[track_caller]
    fn check(security: Security, image: &str, expected: Result<(u32, u32, &[u32], &str), &str>) {
        let user = accounts().resolve(&security, image);
        let expected = expected.map_err(str::to_owned).map(|(uid, gid, groups, home)| User {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.into(),
        });
        assert_eq!(user, expected);
    }

    #[test]
    fn the_user_comes_from_the_pod_or_the_image() {
        let by = |uid: Option<i64>, gid: Option<i64>| Security {
            run_as_user: uid,
            run_as_group: gid,
            ..Security::default()
        };
        check(by(None, None), "", Ok((0, 0, &[50], "/root")));
        check(by(None, None), "web", Ok((33, 34, &[50], "/var/www")));
        check(by(None, None), "web:logs", Ok((33, 50, &[], "/var/www")));
        check(by(None, None), "1000", Ok((1000, 0, &[], "/")));
        check(by(None, None), "1000:2000", Ok((1000, 2000, &[], "/")));
        check(by(Some(33), None), "root", Ok((33, 34, &[50], "/var/www")));
        check(by(Some(1000), Some(7)), "web", Ok((1000, 7, &[], "/")));
        check(
            by(None, None),
            "nobody",
            Err("unable to find user nobody: no matching entries in passwd file"),
        );
        check(
            by(None, None),
            "web:none",
            Err("unable to find group none: no matching entries in group file"),
        );
        let extra = Security { supplemental_groups: vec![9, 50], ..Security::default() };
        check(extra, "web", Ok((33, 34, &[9, 50], "/var/www")));
    }
}
