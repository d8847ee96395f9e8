"""Three public shops' raw transaction files, each with its own mapping. Nothing is copied.

The files are 84.51 "Complete Journey" (`grocer`: public, but whether real is disputed), CDNOW
(`musicshop`: real) and UCI Online Retail I and II (`giftshop`: real). There is no public bank
among them: the bank is in the simulated market only.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

from party_client.source_settings import SourceFile, SourceSettings
from privacy.errors import ConfigError

PARTIES = ("grocer", "musicshop", "giftshop")
FILES = {
    "grocer": ("complete_journey/transactions.parquet",),
    "musicshop": ("cdnow/CDNOW_master.txt",),
    "giftshop": (
        "online_retail/online_retail_2009_2010.parquet",
        "online_retail/online_retail_2010_2011.parquet",
    ),
}
# Rounded constants of the time, so that all amounts are about pounds sterling.
DOLLAR_IN_POUNDS = 0.62


def shop_sources(data: Path) -> dict[str, SourceSettings]:
    """Each shop's source settings, paths pointing into `data`.

    No shop has consent flags, so every customer counts as consented, which `check` says. Raises
    ConfigError naming the first file that is not there.
    """
    data = data.resolve()
    for names in FILES.values():
        for name in names:
            if not (data / name).is_file():
                raise ConfigError(
                    f"{name} is not in the data folder: the README says where the file is published"
                )
    first_year, second_year = (str(data / name) for name in FILES["giftshop"])
    return {
        "grocer": SourceSettings(
            path=str(data / FILES["grocer"][0]),
            currency_rate=DOLLAR_IN_POUNDS,
            columns={
                "customer": "household_id",
                "time": "transaction_timestamp",
                "amount": "sales_value",
                "category": "product_id",
                "channel": "store_id",
            },
        ),
        "musicshop": SourceSettings(
            path=str(data / FILES["musicshop"][0]),
            delimiter="space",
            date_format="%Y%m%d",
            currency_rate=DOLLAR_IN_POUNDS,
            # The file has no order number: two equal lines of a day can be two orders.
            duplicates="keep",
            columns={"customer": "customer_id", "time": "date", "amount": "dollar_value"},
        ),
        "giftshop": SourceSettings(
            # The first file runs on to 9 December 2010, where the second has begun already.
            path=(SourceFile(path=first_year, before=date(2010, 12, 1)), second_year),
            columns={
                "customer": "CustomerID",
                "time": "InvoiceDate",
                "amount": "UnitPrice",
                "quantity": "Quantity",
                "category": "StockCode",
                "channel": "Country",
            },
        ),
    }
