//! The on-instance half of Amazon EC2 Instance Connect.
//!
//! A principal pushes a public key with `SendSSHPublicKey`; for 60 seconds the instance's metadata holds it,
//! signed by AWS. At login sshd runs [`helper`] as its `AuthorizedKeysCommand`, which proves the key and prints
//! it. Data goes one way:
//!
//! ```text
//!   sshd: USER FINGERPRINT
//!     │
//!     ▼
//!   request ─▶ instance ─▶ imds ─▶ place ─▶ trust ─▶ keys ─▶ output ─▶ sshd
//!   (shape)    (sysfs)     (HTTP)  (name)   (X.509,  (record)  (stdout)
//!     │           │          │       │      OCSP)      │
//!     └───────────┴──────────┴───────┴────────┴────────┴─▶ audit ─▶ syslog
//! ```
//!
//! [`authorize`] is that line on one screen, and the only module that calls across. What each module may touch
//! is in `docs/ARCHITECTURE.md`.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::string_slice, clippy::arithmetic_side_effects))]

pub mod access;
pub mod admin;
pub mod audit;
pub mod authorize;
pub mod cage;
pub mod claim;
pub mod config;
pub mod escape;
pub mod file;
pub mod guards;
pub mod helper;
pub mod imds;
pub mod instance;
pub mod keys;
pub mod link;
pub mod options;
pub mod output;
pub mod place;
pub mod reason;
pub mod request;
pub mod sshd;
pub mod stat;
pub mod trust;

#[cfg(test)]
mod tests {
    /// A dependency that nobody can say the reason of has no place here.
    #[test]
    fn every_dependency_has_its_reason_in_the_documentation() {
        let manifest: toml::Table = toml::from_str(include_str!("../Cargo.toml")).unwrap();
        let documented = include_str!("../docs/ARCHITECTURE.md");
        let table = documented.split("## Dependencies").nth(1).unwrap();
        for (name, value) in manifest["dependencies"].as_table().unwrap() {
            let package = value.get("package").and_then(toml::Value::as_str).unwrap_or(name);
            let named = |row: &str| {
                row.split('|')
                    .nth(1)
                    .is_some_and(|names| names.split(',').any(|n| n.trim() == package))
            };
            assert!(
                table.lines().any(named),
                "{package} is not in the table of docs/ARCHITECTURE.md"
            );
        }
    }

    /// A claim of SECURITY.md that no test holds is a promise to nobody.
    #[test]
    fn every_test_that_the_threat_model_names_exists() {
        fn text_below(directory: &std::path::Path, text: &mut String) {
            for entry in std::fs::read_dir(directory)
                .unwrap()
                .map(|entry| entry.unwrap().path())
            {
                if entry.is_dir() && !entry.ends_with("target") {
                    text_below(&entry, text);
                } else if entry.extension().is_some_and(|extension| extension == "rs") {
                    text.push_str(&std::fs::read_to_string(&entry).unwrap());
                }
            }
        }
        let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut code = String::new();
        text_below(&top.join("src"), &mut code);
        text_below(&top.join("tests"), &mut code);
        let words = include_str!("../SECURITY.md").split('`');
        let is_test =
            |word: &&str| word.len() > 20 && word.bytes().all(|b| b == b'_' || b.is_ascii_lowercase());
        let named: Vec<&str> = words.filter(is_test).collect();
        assert!(named.len() >= 20, "{named:?}");
        for name in named {
            assert!(
                code.contains(&format!("fn {name}()")),
                "SECURITY.md names {name}, which is no test"
            );
        }
    }
}
