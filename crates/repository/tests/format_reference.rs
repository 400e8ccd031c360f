//! The reference's complete tiny repository (its section 24), opened through a local store.

#![allow(clippy::unwrap_used)]

mod format_support;

use std::path::Path;

use backstay_core::{FileKind, Id, ObjectKind};
use backstay_repository::pack::{decode_header, header_len};
use backstay_repository::{BlobKind, Error, Repository, SnapshotFilter, Tree};
use format_support::{blob, hex, restic, store};

const KEY: &str = r#"{"created":"2020-01-02T03:04:05Z","username":"u","hostname":"h","kdf":"scrypt","N":16384,"r":8,"p":1,"salt":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==","data":"oKCgoKCgoKCgoKCgoKCgAfT/BivpimSULiNQEF2FHbN1IHt0oXgzz88p4HQmpWo+vUQUIL66vng3uatgoSyWiX2nxrSBrWmWh3c3Z/oKZCudyZ+izZQ7WpVQwPmjxIK/nlgAD0yXgwhI4g35AOgao4z4PCuRmRZznCuomswMRkva8WW16bvgRhc/rTqGR498RfebNL7NSV4roejbW12tQg=="}"#;
/// `config`.
const CONFIG: &str = "
    a0a0a0a0a0a0a0a0a0a0a0a0a0a0a00291847a342598b03691b0b1ba3df15bcf363aa50dbb306a5e853133a6715a66cc
    bef8c1b5a32a30f06af088f9cb11711d9c55abedc28b2c9011b5929f122d1ff6423a0538261e280cce3efe42c89bb8da
    ffa9a9086d92f12c533e710b85376b0fba4d3b73cb2a6e78744a629101138568330edae7a9e3988a16ae9d1675d9c32f
    b7f9d329d0027886d60e93";
/// The pack with both data blobs.
const DATA_PACK: &str = "
    a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0037c65eb51e40b57e017baa5a5ef2e51ea9cd53e07450ba0a0a0a0a0a0a0a0a0a0
    a0a0a0a0a004a07ad970bb1f68910bfa8ff6c41a350f9641a1b9f803483bed05e0af1b346a05be279bdd85a0a0a0a0a0
    a0a0a0a0a0a0a0a0a0a005f915cdddf2e28c1796a474742e752530c51dc9d9cc3ca591de3f33157b7d5a1d7289399442
    b2a7442650166ef768b228467b7a13e1d88095c1190b927d39bb75d7f775f9d3405238f715413593c8d9a8122aafa2ec
    96270068762f725eff6e000000";
/// The pack with the root's tree.
const TREE_PACK: &str = "
    a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0065cb81dfd7e401154a45ce703c590b8dae9edf5713a92fc254b353854d5093514
    ae4077308437766433527a80031bda3e241a9abea2e4cc9f1fb8d2971badb746a498dd149e9eba977a8153e8e04bd78d
    315108978adfd8d3365c6210bb7ea51d5636cc5d96286ebfe69578454320a7f4a93a8ab058b21363c0d0bbd2d35d9dea
    38c85ed1ccb4bb25558eb767ea0b90534cf98ab5d4cec12c9f96f13ecaf44eb672bb561645c27707f347a51ff9b045fd
    21a99e352bbae5b2cc1f8d09502b0c58b638639bf42a0386a4bb3d796baf3aa3c8673c49f2de344de673807fea811c03
    eb65d41ae40a70e0cb3f47b6ef5ac7e26de8e9317a0f30f5a9e1439d60c85e2ee9a850245fd38a2db583fbc36d5c1b30
    715581849ef293b6b90567a8072b8286bc83212e14836c35f86c13c3e6147224cdd41fe0426f55c3240936a3cb605ef6
    3dd2ebabd709ec1d060e40ef3fdb561504f882facccf7313dcd61f62a2f3bec7b0c6f1bdb0c158b5a527bd2257e34a0b
    1b9878b48825936912c3b106a490b50baea0a0a0a0a0a0a0a0a0a0a0a0a0a0a007995ece2a41d79344269b39db10e15e
    b96924b61265dd2768214f6ddc973f2304fe68ed74e4413bacbfb22ce5a0444949bc7d827ae147a8569749000000";
/// The only index file.
const INDEX: &str = "
    a0a0a0a0a0a0a0a0a0a0a0a0a0a0a008d41ce0335b233915e76140d94702d7386d459ae996fb8bd441aeda8551bdb80b
    afc7de0295debbc17c8248eae15e828850535a95ded984d630473016bb79a313573bc764d26678bdf0ca7142007cb2ff
    aa308baa50b05a30cbb1e983cb418bb264921293dcbdd46b41d0eb7c8a0b894916bc81edd3d9c93cc993a768d7fc49ff
    72ef641614c97603af15f408acb047ab76abcf6e25d1f1ad8f0cd75916210446ac696bcdb328079ce0fe36663ebe22be
    d23f6755fe92651ca028c532eace5102f966c90bb21211f2d22512e2e308d1bf7de0be3c63457beff6e151c12499052b
    e0a106725dd8882fe2d5aece69074a39765fd7d494f295b5b10667aa0429838cedd1767b47853834bb7154c1ef462825
    c8844beb1d3e02ce215160af9a7a43ed7e9da2fa9700fe485f4e43fd77cb5c1753e8d6ed8ac7211a95974361aeacffcb
    a0c5fdefadda1fbaf27ce77078fb64057498dbd045ac9fd609384b5d3dbcdc300a86440cd043bf107e925d6b3bdfaad9
    fda59199cb7abd2b8945a1ad06d5b68a06007431a70b4327582024a3dd979da8915ed5a9323c6984b17ba505d1e9efca
    6b7a5c5ba30cfcd08eda7ecba834203ce2dea1b85c633964a77364653c5fca2832c004374480bed48c53db4ab5e083b4
    f6d438ebd00cb9c3655802b950033b39dcfd7e53f38417fd4c65b2f6d0d14970f10b144b00118634ea3912317630f3ec
    eb999dc9cf3b8a25395d6e27533a612ab835c176bc79db8a279db199e5e303e06087bdf11e6bf989efa15ce252830a6d
    c4c3bc2b46452c35e031a38654fcfcf7dd919e548e5bc7bfe6923926914719028e";
/// The only snapshot.
const SNAPSHOT: &str = "
    a0a0a0a0a0a0a0a0a0a0a0a0a0a0a009041e0dfc30a00d9c208c9b8543e6b757efcf9a04948eb88a788053e8e332d78c
    5f510f978adeccd231416717be7da8123b2cd925c07629bbb0c637430328b6a4ac6d8da551b70b37cbe6edd0d9089ae0
    6d9e43d99bb5b727008eb86dd61bd8464aebd1ecd5d5ce3bcbc0fb3b82f14afa75bb3b4547c17502f84ef113e4a006a8
    60f7da2f28bbe5b18f44901506336158b637658ca27e52c7e3ea6e2166af2cb085387b57f5d1325be6739326ea9fd0b2
    7813b8075131ee6ceeda8e9bd786";

fn write(root: &Path) {
    let put = |directory: &str, bytes: &[u8]| {
        std::fs::create_dir_all(root.join(directory)).unwrap();
        std::fs::write(root.join(directory).join(Id::of(bytes).to_hex()), bytes).unwrap();
    };
    put("keys", KEY.as_bytes());
    put("data/f2", &hex(DATA_PACK));
    put("data/59", &hex(TREE_PACK));
    put("index", &hex(INDEX));
    put("snapshots", &hex(SNAPSHOT));
    std::fs::create_dir(root.join("locks")).unwrap();
    std::fs::write(root.join("config"), hex(CONFIG)).unwrap();
}

fn open() -> (tempfile::TempDir, Repository) {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let repository = Repository::open(store(folder.path()), b"test").unwrap();
    (folder, repository)
}

#[test]
fn the_tiny_repository_is_read_down_to_the_last_blob() {
    let (_folder, repository) = open();
    assert_eq!(repository.version(), 2);
    assert_eq!(repository.config().id.to_hex(), "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff");
    assert_eq!(repository.config().chunker_polynomial, "3da3358b4dc173");
    assert_eq!(repository.key_id().to_hex(), "e8e14270e65906da825f95dca3936e28a7f6c828a1d017536ba083fbccfe66c9");

    let (id, snapshot) = repository.snapshot("latest", &SnapshotFilter::default()).unwrap();
    assert_eq!(id.to_hex(), "02986fe896ccbf7098c8af969a41f0d556eb6988337d612930c3c86466e67ad3");
    assert_eq!((&*snapshot.hostname, &*snapshot.username), ("h", "u"));
    assert_eq!(snapshot.paths, ["/a.txt"]);
    assert_eq!(snapshot.time.as_str(), "2020-01-02T03:04:05.123456789Z");

    let tree = blob(&repository, BlobKind::Tree, &snapshot.tree);
    let decoded = Tree::decode(&tree).unwrap();
    assert_eq!(decoded.encode(), tree);
    let [node] = &decoded.nodes[..] else { panic!("{decoded:?}") };
    assert_eq!((&*node.name, node.kind, node.size), (&b"a.txt"[..], FileKind::File, 18));
    let contents: Vec<u8> =
        node.content.iter().flatten().flat_map(|id| blob(&repository, BlobKind::Data, id)).collect();
    assert_eq!(contents, b"hello\nhello world\n");
}

#[test]
fn the_index_agrees_with_the_headers_of_the_packs() {
    let (_folder, repository) = open();
    let index = repository.load_index().unwrap();
    assert_eq!((index.len(), index.packs().count()), (3, 2));
    for (id, size) in repository.store().list(ObjectKind::Pack).unwrap() {
        let pack = repository.store().get(ObjectKind::Pack, &id, None).unwrap();
        assert_eq!(Id::of(&pack), id);
        let length = header_len(*pack.last_chunk().unwrap(), size).unwrap() as usize;
        let header = &pack[pack.len() - 4 - length..pack.len() - 4];
        assert_eq!(decode_header(&repository.key().open(header).unwrap()).unwrap(), index.pack_blobs(&id));
        assert_eq!(index.pack(&id).unwrap().size, size);
    }
}

#[test]
fn a_wrong_password_is_told_from_everything_else() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    for password in ["Test", "", "test "] {
        let error = Repository::open(store(folder.path()), password.as_bytes()).unwrap_err();
        assert!(matches!(error, Error::WrongPassword), "{error}");
    }
}

#[test]
fn restic_agrees_that_the_tiny_repository_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let password = folder.path().join("password");
    std::fs::write(&password, "test").unwrap();
    let output = restic(folder.path(), &["-p", password.to_str().unwrap(), "check", "--read-data"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
