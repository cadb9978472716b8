//! Sample images made from a static busybox: what the examples and the tour of the README run.

use std::path::Path;

use super::{
    ImageConfig, ImageError,
    build::{ImageBuilder, busybox_image},
};

/// `busybox`, and `myapp` in the versions v1 and v2.
///
/// `myapp` is a web server on port 80. `/` says its version, `/hostname.html` the Pod's name.
///
/// # Errors
/// [`ImageError::Io`] when `busybox` cannot be run.
pub fn samples(busybox: &Path) -> Result<Vec<ImageBuilder>, ImageError> {
    Ok(vec![
        busybox_image("busybox:latest", busybox)?,
        busybox_image("busybox:1.28.4", busybox)?,
        myapp("v1", busybox)?,
        myapp("v2", busybox)?,
    ])
}

fn myapp(version: &str, busybox: &Path) -> Result<ImageBuilder, ImageError> {
    let page =
        format!("Hello MyApp | Version: {version} | <a href=\"hostname.html\">Pod Name</a>\n");
    web_server(&format!("myapp:{version}"), &page, busybox)
}

/// A web server on port 80 whose `/` is `page` and whose `/hostname.html` is the host name.
///
/// # Errors
/// [`ImageError::Io`] when `busybox` cannot be run.
pub fn web_server(name: &str, page: &str, busybox: &Path) -> Result<ImageBuilder, ImageError> {
    let start = "hostname > /www/hostname.html; trap 'exit 0' TERM; httpd -f -h /www & wait";
    let command = ["/bin/sh", "-c", start].map(str::to_owned).to_vec();
    Ok(busybox_image(name, busybox)?.file("/www/index.html", page, 0o644).config(ImageConfig {
        cmd: command,
        env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
        ..ImageConfig::default()
    }))
}
