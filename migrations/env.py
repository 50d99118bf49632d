"""For developers: `alembic -c migrations/alembic.ini revision --autogenerate -m ...`.

The appliance runs the migrations by itself when it starts (vswitch/store/database.py).
"""

from pathlib import Path

from alembic import context

from vswitch.store.database import engine_for
from vswitch.store.models import Base

path = Path(context.get_x_argument(as_dictionary=True).get("database", "data/vswitch.db"))
engine = engine_for(path, write=True)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
    with connection.begin():
        context.run_migrations()
