"""Makes tests/vectors/evidence.zip and evidence.json: a real run's pack, which every later version
must verify, and positions whose change must be found in the named part.

    python -m tests.vectors.make_evidence_pack
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from privacy.evidence_archive import ARCHIVE, unpack
from simulations.homes import offline_federation
from simulations.population import write_market
from tests.integration.conftest import LocalRun
from tests.integration.test_evidence import conducted, coordinator_home

HERE = Path(__file__).parent


def main() -> None:
    """Conduct a small run of three parties, and write its pack, its keys and the positions."""
    with tempfile.TemporaryDirectory() as folder:
        market = Path(folder) / "market"
        sources = write_market(market, 500)
        local = LocalRun(offline_federation(market, sources, dict.fromkeys(sources, 500)))
        home = coordinator_home(Path(folder) / "coordinator", local.federation)
        ended = conducted(home, local)
        local.close()
        pack, keys = ended.pack(), ended.evidence.keys()
        ended.evidence.close()
    broken = [{"at": 5, "part": ARCHIVE}, {"at": len(pack) - 3, "part": ARCHIVE}]
    for name, data in unpack(pack).items():
        broken.append({"at": pack.index(data) + len(data) // 2, "part": name})
    (HERE / "evidence.zip").write_bytes(pack)
    described = {"keys": json.loads(keys.to_json()), "broken": broken}
    (HERE / "evidence.json").write_text(json.dumps(described, indent=1) + "\n")


if __name__ == "__main__":
    main()
