//! Static bearer tokens.

use std::collections::HashMap;

use async_trait::async_trait;
use http::request::Parts;
use sha2::{Digest, Sha256};

use super::{AuthenticationError, Authenticator, bearer_token};
use crate::server::user::UserInfo;

/// A fixed list of tokens and their users (`--token-auth-file`).
#[derive(Clone, Default)]
pub struct TokenList {
    /// By the token's digest: looking one up takes the same time however much of it is right, and
    /// a memory dump does not show tokens.
    users: HashMap<[u8; 32], UserInfo>,
}

impl std::fmt::Debug for TokenList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenList").field("tokens", &self.users.len()).finish()
    }
}

impl TokenList {
    /// The same list with one more token.
    #[must_use]
    pub fn with(mut self, token: &str, user: UserInfo) -> Self {
        self.users.insert(Sha256::digest(token).into(), user);
        self
    }

    /// Reads lines of `token,user,uid` and optionally `,"group1,group2"`; empty lines and lines
    /// that begin with `#` are skipped.
    ///
    /// # Errors
    /// Names the first line that is not of this form.
    pub fn parse(csv: &str) -> Result<Self, String> {
        let mut list = Self::default();
        for (number, line) in csv.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut fields = line.splitn(4, ',').map(|field| field.trim().trim_matches('"'));
            let (Some(token), Some(name), Some(uid)) =
                (fields.next(), fields.next(), fields.next())
            else {
                return Err(format!("line {}: expected token,user,uid[,\"groups\"]", number + 1));
            };
            if token.is_empty() {
                return Err(format!("line {}: the token is empty", number + 1));
            }
            let groups = fields.next().unwrap_or_default().split(',').map(str::trim);
            let mut user = UserInfo::new(name, groups.filter(|group| !group.is_empty()));
            user.uid = uid.to_owned();
            list = list.with(token, user);
        }
        Ok(list)
    }
}

#[async_trait]
impl Authenticator for TokenList {
    async fn authenticate(&self, request: &Parts) -> Result<Option<UserInfo>, AuthenticationError> {
        let Some(token) = bearer_token(request) else { return Ok(None) };
        let digest: [u8; 32] = Sha256::digest(token).into();
        Ok(self.users.get(&digest).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listed_token_names_its_user_and_others_nobody() {
        let list = TokenList::parse("# people\n\nsecret,ann,7,\"dev,system:masters\"\n").unwrap();
        let with = |token: &str| {
            let request =
                http::Request::get("/").header("Authorization", format!("Bearer {token}"));
            request.body(()).unwrap().into_parts().0
        };
        let user = list.authenticate(&with("secret")).await.unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("ann", "7"));
        assert!(user.is_in("dev") && user.is_in("system:masters"));
        assert_eq!(list.authenticate(&with("secre")).await.unwrap(), None);
    }

    #[test]
    fn a_short_line_is_named() {
        assert!(TokenList::parse("a,b,c\nx,y").unwrap_err().starts_with("line 2"));
    }
}
