//! Evidence for one login, sound unless a test makes it otherwise, judged in-process.

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Parser;
use ec2_instance_connect::admin::verify::Verify;
use ec2_instance_connect::authorize::{Evidence, Facts, Verdicts, judge};
use ec2_instance_connect::config::{Anchors, Config, OcspPolicy};
use ec2_instance_connect::file::Owner;
use ec2_instance_connect::imds::{SignerDocuments, StapleName};
use ec2_instance_connect::instance::InstanceId;
use ec2_instance_connect::keys::Question;
use ec2_instance_connect::place::Partition;
use ec2_instance_connect::reason::{Reason, Refusal};
use ec2_instance_connect::request::Fingerprint;
use eic_simulator::record::{self, Record};
use eic_simulator::signer::{Signer, SignerSpec};
use pki_types::UnixTime;

/// The instance of all tests.
pub const INSTANCE: &str = "i-0123456789abcdef0";
/// Who must have signed there.
pub const HOST: &str = "managed-ssh-signer.us-east-1.amazonaws.com";
/// The pushed key.
pub const KEY_LINE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
/// Its fingerprints, by ssh-keygen.
pub const SHA256: &str = "SHA256:UCUiLr7Pjs9wFFJMDByLgc3NrtdU344OgUM45wZPcIQ";
/// See [`SHA256`].
pub const MD5: &str = "MD5:ae:6f:ba:1b:70:2c:ae:c7:5c:ab:6e:4d:5e:d4:c7:23";
/// The time of all tests, so that none depends on the clock: 2026-01-01.
pub const NOW: i64 = 1_767_225_600;

/// `verify`, told as on its command line.
#[derive(Parser)]
struct Told {
    #[command(flatten)]
    verify: Verify,
}

/// One login's evidence, and how it is judged.
#[derive(Clone)]
pub struct Case {
    pub signer: SignerSpec,
    pub records: Vec<Record>,
    pub region: String,
    pub domain: String,
    pub partition: Option<Partition>,
    pub anchors: Option<Anchors>,
    pub ocsp: OcspPolicy,
    pub fingerprint: Option<&'static str>,
    /// In place of what `signer` makes.
    pub signer_cert: Option<String>,
    /// In place of what `signer` makes: names and DER.
    pub staples: Option<Vec<(String, Vec<u8>)>>,
    /// Beside what `signer` makes: names and documents as they are.
    pub extra_staples: Vec<(String, Vec<u8>)>,
    /// In place of what `records` make.
    pub active_keys: Option<Vec<u8>>,
    /// What `signer` makes, made beforehand: for tests that change thousands of bits beside it.
    pub prebuilt: Option<Signer>,
}

impl Case {
    /// What production serves, for a record that has a minute to live.
    pub fn usual() -> Self {
        let record = Record::new(INSTANCE, KEY_LINE)
            .caller("arn:aws:sts::123456789012:assumed-role/Ops/alice")
            .request("c0ffee00-0000-4000-8000-000000000000");
        Self {
            signer: SignerSpec::production(HOST),
            records: vec![record],
            region: "us-east-1".to_owned(),
            domain: "amazonaws.com".to_owned(),
            partition: None,
            anchors: None,
            ocsp: OcspPolicy::Require,
            fingerprint: None,
            signer_cert: None,
            staples: None,
            extra_staples: Vec::new(),
            active_keys: None,
            prebuilt: None,
        }
    }

    /// Certificates and staples.
    pub fn built_signer(&self) -> Signer {
        self.prebuilt.clone().unwrap_or_else(|| self.signer.build(NOW))
    }

    /// The key document.
    pub fn document(&self) -> Vec<u8> {
        record::document(&self.records, self.signer.leaf.key, NOW)
    }

    /// The configuration without the file of its anchors.
    pub fn config(&self) -> Config {
        let mut config = Config {
            owner: Owner::RootOrSelf,
            ..Config::default()
        };
        config.instance.partition = self.partition;
        config.trust.ocsp = self.ocsp;
        config.trust.anchors = self
            .anchors
            .clone()
            .unwrap_or(Anchors::File("/nonexistent".into()));
        config
    }

    /// The verdict on each record, or what refuses them all.
    pub fn judge(&self) -> Result<Verdicts, Refusal> {
        let signer = self.built_signer();
        let mut anchors = tempfile::NamedTempFile::new().unwrap();
        anchors.write_all(signer.root.pem().as_bytes()).unwrap();
        let mut config = self.config();
        if self.anchors.is_none() {
            config.trust.anchors = Anchors::File(anchors.path().to_owned());
        }
        let der = self.staples.as_ref().unwrap_or(&signer.staples);
        let mut staples: Vec<(String, Vec<u8>)> = der
            .iter()
            .map(|(name, der)| (name.clone(), STANDARD.encode(der).into_bytes()))
            .collect();
        staples.extend(self.extra_staples.iter().cloned());
        let evidence = Evidence {
            active_keys: self.active_keys.clone().unwrap_or_else(|| self.document()),
            documents: SignerDocuments {
                instance_id: None,
                region: self.region.clone(),
                domain: self.domain.clone(),
                signer_cert: self.signer_cert.clone().unwrap_or(signer.chain).into_bytes(),
                staple_names: Vec::new(),
            },
            staples: staples
                .into_iter()
                .map(|(name, base64)| (StapleName::new(&name).unwrap(), base64))
                .collect(),
        };
        let question = Question {
            instance: &InstanceId::new(INSTANCE).unwrap(),
            fingerprint: self.fingerprint.map(|text| Fingerprint::new(text).unwrap()),
            now: UnixTime::since_unix_epoch(Duration::from_secs(NOW.unsigned_abs())),
        };
        let verdicts = judge(&evidence, question, &config, &mut Facts::default());
        self.agrees_with_verify(&evidence, &config, &verdicts);
        verdicts
    }

    /// `verify` on the same evidence, laid out as `capture` does, comes to the same verdict on every record.
    #[track_caller]
    fn agrees_with_verify(&self, evidence: &Evidence, config: &Config, verdicts: &Result<Verdicts, Refusal>) {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        fs::write(path("keys"), &evidence.active_keys).unwrap();
        fs::write(path("signer-cert"), &evidence.documents.signer_cert).unwrap();
        fs::create_dir(path("ocsp")).unwrap();
        for (name, base64) in &evidence.staples {
            fs::write(directory.path().join("ocsp").join(name.as_str()), base64).unwrap();
        }
        let at = format!("@{NOW}");
        let (keys, signer, ocsp) = (path("keys"), path("signer-cert"), path("ocsp"));
        let anchors = match &config.trust.anchors {
            Anchors::Auto => "auto".to_owned(),
            Anchors::Amazon => "amazon".to_owned(),
            Anchors::System => "system".to_owned(),
            Anchors::File(path) => path.to_str().unwrap().to_owned(),
        };
        let policy = match config.trust.ocsp {
            OcspPolicy::Require => "require",
            OcspPolicy::IfPresent => "if-present",
        };
        let mut words = vec![
            "verify",
            "--json",
            "--keys",
            &keys,
            "--signer-cert",
            &signer,
            "--ocsp",
            &ocsp,
        ];
        words.extend([
            "--instance-id",
            INSTANCE,
            "--at",
            &at,
            "--anchors",
            &anchors,
            "--ocsp-policy",
            policy,
        ]);
        words.extend(["--region", &self.region, "--domain", &self.domain]);
        words.extend(
            self.fingerprint
                .iter()
                .flat_map(|fingerprint| ["--fingerprint", fingerprint]),
        );
        let partition = self.partition.map(Partition::name);
        words.extend(partition.iter().flat_map(|name| ["--partition", name]));
        let page = Told::parse_from(words).verify.run();
        let report: serde_json::Value =
            serde_json::from_slice(&page.out).unwrap_or_else(|_| panic!("verify: {}", page.err));
        let code = |refusal: &Refusal| refusal.reason.code().to_owned();
        let (refusal, records): (Option<String>, Vec<Option<String>>) = match verdicts {
            Ok(verdicts) => {
                let records = verdicts.iter().map(|verdict| verdict.as_ref().err().map(code));
                (None, records.collect())
            }
            Err(refusal) => (Some(code(refusal)), Vec::new()),
        };
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        assert_eq!(text(&report["refusal"]["reason"]), refusal, "{report}");
        if refusal.is_none() {
            let told: Vec<Option<String>> = report["records"]
                .as_array()
                .unwrap()
                .iter()
                .map(|record| {
                    let holds = record["verdict"] == "holds";
                    assert_eq!(holds, record["reason"].is_null(), "{record}");
                    text(&record["reason"])
                })
                .collect();
            assert_eq!(told, records, "{report}");
        }
        let holds = refusal.is_none() && records.iter().any(Option::is_none);
        assert_eq!(
            (report["holds"] == true, page.exit),
            (holds, u8::from(!holds)),
            "{report}"
        );
    }

    /// Whether the one key comes out, or why not.
    pub fn verdict(&self) -> Result<(), Reason> {
        let verdicts = self.judge().map_err(|refusal| refusal.reason)?;
        assert!(!verdicts.is_empty(), "no record was judged");
        for verdict in verdicts {
            let key = verdict.map_err(|refusal| refusal.reason)?;
            assert_eq!(key.line(), KEY_LINE, "a key came out that nobody signed");
        }
        Ok(())
    }
}
