//! An API server alone, over HTTPS, with an empty store in memory.
//!
//! ```sh
//! cargo run -p rk-api --features server --example apiserver -- 6443 secret >kubeconfig
//! kubectl --kubeconfig kubeconfig api-resources
//! ```
//!
//! The arguments are the port and an administrator's token.

use std::{net::Ipv4Addr, sync::Arc};

use rk_api::server::{
    ApiServer, UserInfo,
    authn::TokenList,
    pki::{Credentials, Pki},
};
use rk_store::EmbeddedStore;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let port: u16 = arguments.next().map_or(Ok(6443), |port| port.parse())?;
    let token = arguments.next().unwrap_or_else(|| "secret".to_owned());

    let pki = Pki::generate()?;
    let admins = TokenList::default().with(&token, UserInfo::admin());
    let server = ApiServer::builder(Arc::new(EmbeddedStore::in_memory()))
        .authenticator(Arc::new(admins))
        .token_key(pki.token_key())
        .start()
        .await?;

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let url = format!("https://127.0.0.1:{}", listener.local_addr()?.port());
    print!("{}", pki.kubeconfig(&url, &Credentials::Token(&token))?);

    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    server.serve(listener, pki.server_tls(&[])?, shutdown).await;
    Ok(())
}
