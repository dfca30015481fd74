//! OpenSSL's command line: what it says of a chain, a staple, a signature.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// What a judge says: nothing against it, or every objection in the judge's own words.
pub(crate) type Verdict = Result<(), Vec<String>>;

/// The releases of which the reviewed list speaks. Another one may word its objections otherwise.
pub(crate) const REVIEWED: &str = "OpenSSL 3.0.";

/// The version, where there is an openssl.
pub(crate) fn version() -> Option<String> {
    let output = Command::new("openssl").arg("version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Where the files of one judgement lie.
pub(crate) struct Desk(TempDir);

impl Desk {
    pub(crate) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// Puts a file down.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Whether it ran well, and all that it said. File names are relative to the desk.
    fn openssl(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(self.0.path())
            .output()
            .expect("openssl starts");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    /// Whether the first certificate of `chain.pem` leads to one of `anchors.pem` at `now`, with the help of the
    /// others, as a TLS server of the name `host`. The level asks for 112 bits of strength, and no SHA-1.
    pub(crate) fn chain(&self, host: &str, now: i64, strict: bool) -> Verdict {
        let now = now.to_string();
        let mut arguments = vec![
            "verify",
            "-no-CApath",
            "-no-CAstore",
            "-CAfile",
            "anchors.pem",
            "-untrusted",
            "chain.pem",
        ];
        arguments.extend([
            "-partial_chain",
            "-purpose",
            "sslserver",
            "-verify_hostname",
            host,
            "-auth_level",
            "2",
        ]);
        arguments.extend(["-attime", &now]);
        arguments.extend(strict.then_some("-x509_strict"));
        arguments.push("chain.pem");
        let (accepted, said) = self.openssl(&arguments);
        if accepted {
            return Ok(());
        }
        let errors = said.lines().filter_map(|line| line.split_once(" depth lookup: "));
        let mut errors: Vec<String> = errors.map(|(_, error)| error.to_owned()).collect();
        if errors.is_empty() {
            errors.push("unreadable".to_owned());
        }
        errors.sort();
        errors.dedup();
        Err(errors)
    }

    /// What `staple.der` says of `subject.pem`, which `issuer.pem` issued, now.
    pub(crate) fn staple(&self) -> Verdict {
        let mut arguments = vec!["ocsp", "-no_nonce", "-issuer", "issuer.pem"];
        for digest in ["-sha1", "-sha256", "-sha384", "-sha512"] {
            // Each makes the next certID of this digest, and one that the response has is enough.
            arguments.extend([digest, "-cert", "subject.pem"]);
        }
        arguments.extend(["-CAfile", "issuer.pem", "-partial_chain", "-respin", "staple.der"]);
        let (_, said) = self.openssl(&arguments);
        let mut objections = Vec::new();
        if let Some((_, status)) = said.split_once("Responder Error: ") {
            objections.push(format!(
                "responder error: {}",
                status.lines().next().unwrap_or_default()
            ));
        } else if !said.contains("Response verify OK") {
            objections.extend(reasons(&said));
            if objections.is_empty() {
                objections.push("unreadable".to_owned());
            }
        }
        let answers: Vec<&str> = said.split("subject.pem: ").skip(1).collect();
        let known: Vec<&&str> = answers
            .iter()
            .filter(|answer| !answer.contains("No Status found"))
            .collect();
        for answer in &known {
            if answer.starts_with("WARNING: Status times invalid") {
                objections.extend(reasons(answer));
            }
            for status in ["revoked", "unknown"] {
                if answer.lines().any(|line| line == status) {
                    objections.push(status.to_owned());
                }
            }
        }
        if known.is_empty() && !answers.is_empty() {
            objections.push("no status found".to_owned());
        }
        let good = known.iter().any(|answer| answer.starts_with("good"));
        objections.sort();
        objections.dedup();
        if objections.is_empty() && !good {
            objections.push("unreadable".to_owned());
        }
        if objections.is_empty() {
            Ok(())
        } else {
            Err(objections)
        }
    }

    /// Writes the public key of the certificate `leaf.pem` to `public.pem`.
    pub(crate) fn extract_key(&self) {
        let (ran, said) = self.openssl(&[
            "x509",
            "-in",
            "leaf.pem",
            "-noout",
            "-pubkey",
            "-out",
            "public.pem",
        ]);
        assert!(ran, "{said}");
    }

    /// Whether `signature` is RSASSA-PSS over `data` with SHA-256 and a salt of 32 bytes, by `public.pem`.
    pub(crate) fn signature(&self, data: &[u8], signature: &[u8]) -> bool {
        self.file("data", data);
        self.file("signature", signature);
        let options = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32"];
        let files = ["-verify", "public.pem", "-signature", "signature", "data"];
        self.openssl(&[["dgst", "-sha256"].as_slice(), &options, &files].concat())
            .0
    }
}

/// The reasons of OpenSSL's error stack, which has them in the sixth field of each line.
fn reasons(said: &str) -> Vec<String> {
    let errors = said.lines().filter(|line| line.contains(":error:"));
    errors
        .map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let reason = fields.get(5).copied().unwrap_or_default();
            match line
                .split_once("Verify error: ")
                .or_else(|| line.split_once("Verify error:"))
            {
                Some((_, why)) => format!("{reason}: {why}"),
                None => reason.to_owned(),
            }
        })
        .collect()
}
