"""Fetch Debian packages with apt and unpack only the parts that hold text. Nothing is installed."""
import concurrent.futures
import re
import subprocess

# Members worth unpacking; programs and libraries stay in the archive.
WANTED = {
    "man": ["./usr/share/man/man*", "./usr/share/doc/*/copyright"],
    "any": ["./usr/share/*", "./usr/lib/R/*"],
}


def read_sources(path):
    """sources.toml -> list of groups with `packages` split into names."""
    import tomllib
    config = tomllib.loads(path.read_text(encoding="ascii"))
    for group in config["group"]:
        group["packages"] = list(dict.fromkeys(group["packages"].split()))
    return config


def available(names):
    """The names that the configured archive carries, with version and archive path: {name: version}."""
    shown = subprocess.run(["apt-cache", "show", "--no-all-versions", *names], capture_output=True, text=True,
                           check=False).stdout
    versions = {}
    name = None
    for line in shown.splitlines():
        if line.startswith("Package: "):
            name = line[9:]
        elif line.startswith("Version: ") and name:
            versions[name] = line[9:]
    return versions


def download(names, debs):
    """Download into `debs` what is not there yet. Batches of 60 keep the command line short."""
    debs.mkdir(parents=True, exist_ok=True)
    have = {entry.name.split("_")[0] for entry in debs.glob("*.deb")}
    missing = [name for name in names if name not in have]
    for start in range(0, len(missing), 60):
        subprocess.run(["apt-get", "download", "-q", *missing[start:start + 60]], cwd=debs, check=True,
                       stdout=subprocess.DEVNULL)


def unpack_one(deb, reader, root):
    """Unpack one archive's wanted members below root/NAME; done once (a marker file says so)."""
    target = root / deb.name.split("_")[0]
    marker = target / ".done"
    if marker.exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    wanted = WANTED["man" if reader == "man" else "any"]
    archive = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE)
    # tar exits 2 when a pattern matches nothing, which is normal for a package without manual pages.
    subprocess.run(["tar", "-x", "-C", str(target), "--no-same-owner", "--wildcards", *wanted],
                   stdin=archive.stdout, stderr=subprocess.DEVNULL, check=False)
    archive.stdout.close()
    archive.wait()
    marker.touch()


def unpack(groups, debs, root, jobs):
    """Unpack every downloaded package; one that several groups name is unpacked for the widest reader."""
    reader_of = {}
    for group in groups:
        for name in group["packages"]:
            if reader_of.get(name, "man") == "man":
                reader_of[name] = group["reader"]
    archives = {entry.name.split("_")[0]: entry for entry in debs.glob("*.deb")}
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda name: unpack_one(archives[name], reader_of[name], root),
                      sorted(set(reader_of) & set(archives))))


def fetch_descriptions(work):
    """Refresh a private copy of apt's English description index; returns the paths of the index files."""
    lists = work / "lists"
    cache = work / "aptcache"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    if not list(lists.glob("*Translation-en*")):
        subprocess.run(["apt-get", "-o", "Acquire::Languages=en", "-o", f"Dir::State::Lists={lists}",
                        "-o", f"Dir::Cache={cache}", "update"], check=True, stdout=subprocess.DEVNULL)
    return sorted(lists.glob("*Translation-en*"))


def read_index(path):
    """Text of an apt index file in whatever compression apt stores it."""
    return subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", str(path)], capture_output=True, check=True,
                          ).stdout.decode("utf-8", "replace")


def licence_of(root, name):
    """Licence names of a package from its copyright file, shortest useful form; empty when it has none."""
    path = root / name / "usr/share/doc" / name / "copyright"
    if not path.is_file():
        return ""
    text = path.read_text(encoding="utf-8", errors="replace")
    names = [match.strip() for match in re.findall(r"^License: *(\S.*)$", text, re.M)]
    if names:
        seen = []
        for entry in names:
            if entry not in seen:
                seen.append(entry)
        return "; ".join(seen[:6]) + (" and others" if len(seen) > 6 else "")
    common = sorted(set(re.findall(r"/usr/share/common-licenses/([A-Za-z0-9.+-]*[A-Za-z0-9+])", text)))
    return "; ".join(common)
